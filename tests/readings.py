"""What the chapters' computed sentences may say of the numbers beside them.

Written from the sentences, not from the cells that make them: `watch` has the
small copies of `make test` checked as they run, `make check` reads the book.
"""

import re

NUMBER = r"([+-]?\d+\.?\d*)"
INTERVAL = re.compile(rf"{NUMBER} to {NUMBER}\)")
# Of nested minus another error, or of latents with L1 minus those without;
# equal to the digits printed, an end may be zero.
BELOW, ABOVE = (lambda low, high: high <= 0), (lambda low, high: low >= 0)
SAID = {
    "no difference": lambda low, high: low <= 0 <= high,
    "cannot be told": lambda low, high: low <= 0 <= high,
    "is better": BELOW,
    "out of use": BELOW,
    "is worse": ABOVE,
    "into use": ABOVE,
    # of shares told right, the map's minus a control's
    "does better": ABOVE,
    "does worse": BELOW,
}
LIMIT = re.compile(
    rf"interval, {NUMBER} to {NUMBER}, lies (above|below|on both sides of) "
    rf"the limit of {NUMBER}"
)
AIM = re.compile(
    rf"at most {NUMBER}: {NUMBER} here, {NUMBER} on folds drawn anew: "
    r"\**(met|missed|undecided)"
)
AVERAGE = re.compile(
    rf"is {NUMBER} % points, over rows {NUMBER}: the average makes {NUMBER} of it"
)
DIFFER = re.compile(
    rf"scores {NUMBER} % points against [^,]+, (no )?more than the models differ "
    rf"on the best device \({NUMBER}\)"
)


def check(text):
    """Check a text's sentences; return how many there are."""
    count = 0
    for line in text.splitlines():
        if found := INTERVAL.search(line):
            low, high = map(float, found.groups())
            words = [words for words in SAID if words in line]
            assert len(words) == 1, line
            assert low <= high, line
            assert SAID[words[0]](low, high), line
            count += 1
    for *ends, side, limit in LIMIT.findall(text):
        low, high, limit = map(float, (*ends, limit))
        held = {"above": low >= limit, "below": high <= limit}
        assert held.get(side, low <= limit <= high), text
        count += 1
    for aim, here, anew, word in AIM.findall(text):
        reached = sum(float(error) <= float(aim) for error in (here, anew))
        assert word == ("missed", "undecided", "met")[reached], text
        count += 1
    for more, no, spread in DIFFER.findall(text):
        more = abs(float(more)) - float(spread)
        assert more < 0.11 if no else more > -0.11, text
        count += 1
    for batches, rows, rest in AVERAGE.findall(text):
        assert abs(float(batches) - float(rows) - float(rest)) < 0.002, text
        count += 1
    return count


def watch():
    """Have every sentence of a notebook checked when it is made."""
    from IPython import display

    class Checked(display.Markdown):
        def __init__(self, data=None, *others, **named):
            check(data or "")
            super().__init__(data, *others, **named)

    display.Markdown = Checked
