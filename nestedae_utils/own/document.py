"""A YAML file as plain data, with the line of every key; nothing is executed."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ruamel.yaml import YAML, YAMLError, events

from nestedae_utils.errors import DataError, shown

LARGEST = 4 * 1024**2  # bytes of a file; a larger one is no declaration
DEEPEST = 8  # levels of its lists and mappings
Keys = tuple[str | int, ...]


class Document(NamedTuple):
    """Where a declaration stands: its path, and the line of every key."""

    path: str
    lines: dict[Keys, int]

    def fault(self, words: str, keys: Keys = ()) -> DataError:
        """Return the one-line error of a key."""
        at, where = Keys(), [self.path]
        for key in keys:  # to the last that stands in the file
            at = (*at, key) if (*at, key) in self.lines else at
            where += [f"item {key + 1}" if isinstance(key, int) else shown(key)[1:-1]]
        where[1:1] = [f"line {self.lines[at]}"] if self.lines else []
        return DataError(" ".join(f"{', '.join(where)}: {words}".split()))

    def read(self, text: str) -> Any:
        """Return the values of a YAML text; note the line of every key."""
        plain = None
        if len(text.encode("utf-8", "replace")) > LARGEST:
            raise self.fault(f"more than {LARGEST} bytes; shorten it.")
        try:
            stream = YAML(typ="safe", pure=True).parse(text)
            for event in stream:
                if isinstance(event, events.DocumentStartEvent):
                    if plain is not None:
                        self.lines[()] = event.start_mark.line + 1
                        raise self.fault("a second document; give one.")
                    plain = self.value(next(stream), stream, ())
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            before = text[: mark.index if mark else getattr(error, "position", 0)]
            self.lines[()] = before.count("\n") + 1
            why = getattr(error, "problem", None) or getattr(error, "reason", "")
            words = f"not YAML ({why}); indent with blanks, put names with special "
            words += "characters in quotes, and save it as plain text in UTF-8."
            raise self.fault(words) from None
        return plain

    def value(self, event: Any, stream: Iterator[Any], at: Keys) -> Any:
        """Return the value that an event begins; note its keys' lines."""
        if event.anchor or event.tag or len(at) > DEEPEST:
            words = f"an anchor, alias, tag or more than {DEEPEST} levels is not "
            words += "allowed, nothing here is executed; put words with &, * or ! "
            raise self.fault(f"{words}in quotes.", at)
        if isinstance(event, events.ScalarEvent):
            return scalar(event.value) if event.implicit[0] else joined(event.value)
        values: dict[str | int, Any] = {}
        listed = isinstance(event, events.SequenceStartEvent)
        while not isinstance(event := next(stream), events.CollectionEndEvent):
            key = len(values) if listed else joined(getattr(event, "value", "?"))
            self.lines[here := (*at, key)] = event.start_mark.line + 1
            if not listed:
                self.value(event, stream, here)
                if key in values or not isinstance(event, events.ScalarEvent):
                    words = "stands twice, or is no word; a key is a word, once."
                    raise self.fault(words, here)
                event = next(stream)
            values[key] = self.value(event, stream, here)
        return list(values.values()) if listed else values


WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None}
WORDS |= {".nan": math.nan, ".inf": math.inf, "-.inf": -math.inf}


def joined(text: str) -> str:
    """Join the two halves in which JSON escapes a rare character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def scalar(text: str) -> Any:
    """Read a plain scalar as YAML 1.2 does: "no" is a word, 1e-3 a number."""
    if re.fullmatch(r"[-+]?\d{1,300}", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\.\d+|\d+\.?\d*)([eE][-+]?\d+)?", text):
        return float(text)
    return WORDS.get(text.lower(), text or None)
