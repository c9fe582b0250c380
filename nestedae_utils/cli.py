"""The command ``nestedae``: chapters re-run with parameters of one's own.

Exit statuses: 0, all is well; 1, something failed or differs; 2, the command
was given something that is not allowed; 130 and 143, stopped by Ctrl-C or
SIGTERM.  Errors are one line on stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from nestedae_utils.book import parameters
from nestedae_utils.data.files import DATA, NOTEBOOKS
from nestedae_utils.errors import DataError, ParameterError

# The modules that make runs load pandas; each command imports what it needs.

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]


class Interrupted(BaseException):
    """A signal asked the command to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(
    arguments: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS
) -> int:
    """Run the command; return its exit status.

    Parameters
    ----------
    arguments
        The command line's words; those of this process by default.
    notebooks
        The chapters' folder.
    """
    try:
        with _signals():
            status = _nestedae.main(
                None if arguments is None else list(arguments),
                prog_name="nestedae",
                standalone_mode=False,
                obj=notebooks,
            )
            sys.stdout.flush()
            return status or 0
    except Interrupted as stopped:
        name = signal.Signals(stopped.number).name
        _complain(f"stopped by {name}; finished runs are kept, no other.")
        return 128 + stopped.number
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "nestedae"
        words = error.format_message().rstrip(".")
        mark = "" if words.endswith("?") else "."
        _complain(f"{words}{mark} See {where} --help.")
        return 2
    except ParameterError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:
        # the reader, head for instance, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 1
    except (DataError, RuntimeError, OSError) as error:
        _complain(str(error))
        return 1


def _complain(line: str) -> None:
    click.echo(f"nestedae: {' '.join(line.split())}", err=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the first signal into `Interrupted`; later ones wait."""

    def stop(number: int, frame: Any) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the commands ----------------------------------------------------------

_FOLDER = click.Path(path_type=Path)
_given = click.option(
    "-p",
    "given",
    metavar="NAME=VALUE",
    multiple=True,
    help="A parameter; may be repeated. The others keep their defaults.",
)
_force = click.option("--force", is_flag=True, help="Run anew.")


@click.group("nestedae", no_args_is_help=False)
def _nestedae() -> None:
    """Re-run the chapters of the NestedAE companion."""


@_nestedae.command("list")
@click.pass_obj
def _list(folder: Path) -> None:
    """List the chapters, what they reproduce, and how long they run."""
    for name in parameters.chapters(folder):
        one = parameters.find(name, folder)
        click.echo(f"{click.style(name, bold=True)}  {one.title}")
        words = [one.summary, one.run_time]
        reference = DATA / "reference" / f"{name}.json"
        if reference.is_file():
            kept = json.loads(reference.read_text(encoding="utf-8"))
            words.append(f"The reference run took {kept['seconds']:g} s.")
        for text in filter(None, [words[0], " ".join(words[1:])]):
            click.echo(textwrap.indent(textwrap.fill(text, 74), "    "))
        click.echo()


@_nestedae.command("params")
@click.argument("chapter")
@click.pass_obj
def _params(folder: Path, chapter: str) -> None:
    """List the parameters of CHAPTER (05, or its name)."""
    one = parameters.find(chapter, folder)
    rows = [("name", "type", "default", "allowed", "meaning")]
    rows += [
        (
            each.name,
            each.kind.__name__,
            parameters.written(each.default),
            each.rule.allowed,
            each.help,
        )
        for each in one.parameters.values()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [c.ljust(w) for c, w in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


@_nestedae.command("run")
@click.argument("chapter")
@_given
@click.option("-o", "out", type=_FOLDER, help="Folder of the run.")
@_force
@click.pass_obj
def _run(
    notebooks: Path,
    chapter: str,
    given: tuple[str, ...],
    out: Path | None,
    force: bool,
) -> None:
    """Run CHAPTER with parameters, into a folder.

    The folder gets the executed notebook, the same as HTML, results.json,
    the figures, and run.json, which tells how all of it was made. The same
    arguments again find the run that is there.
    """
    notebook = parameters.find(chapter, notebooks)
    values = parameters.parse(notebook, parameters.assignments(given))
    from nestedae_utils.rerun import runs

    what = runs.plan(notebook, values)
    done = runs.run(what, out or what.folder, force, _cells())
    where = runs.shown(done.folder)
    if done.found:
        click.echo(
            f"{where}: this run is there, finished {done.record['finished']}; "
            "--force runs anew."
        )
    else:
        click.echo(f"{where}: finished in {done.record['seconds']:g} s")


@_nestedae.command("sweep")
@click.argument("chapter")
@click.argument("more", metavar="[NAME=VALUES]...", nargs=-1)
@click.option(
    "--grid",
    metavar="NAME=VALUES",
    multiple=True,
    help="An axis: noise=0,0.5,1 or seed=0..9; more may follow.",
)
@_given
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    help="Runs at a time on this machine; 1 if not given.",
)
@click.option("--dask", metavar="ADDRESS", help="A Dask scheduler to use.")
@click.option("-o", "out", type=_FOLDER, help="Folder of the sweep.")
@click.option("--retry", is_flag=True, help="Run those anew that failed.")
@_force
@click.pass_obj
def _sweep(
    notebooks: Path,
    chapter: str,
    more: tuple[str, ...],
    grid: tuple[str, ...],
    given: tuple[str, ...],
    jobs: int | None,
    dask: str | None,
    out: Path | None,
    retry: bool,
    force: bool,
) -> int:
    """Run CHAPTER for every combination of a grid of parameters.

    Each combination is a run; sweep.csv has all their results, sweep.svg
    draws them. The same sweep again makes what is missing.
    """
    if jobs is not None and dask is not None:
        raise ParameterError(
            "--jobs and --dask: both given, one of them is allowed."
        )
    notebook = parameters.find(chapter, notebooks)
    from nestedae_utils.rerun import runs, sweeps

    values = sweeps.grid(notebook, [*grid, *more])
    fixed = parameters.parse(notebook, parameters.assignments(given))
    what = sweeps.plans(notebook, values, fixed)
    folder = out or sweeps.default_folder(notebook, values, fixed)
    tell = functools.partial(click.echo, err=True)
    outcomes = sweeps.sweep(what, folder, jobs or 1, dask, retry, force, tell)
    bad = [one for one in outcomes if one.run is None]
    click.echo(
        f"{runs.shown(folder)}: {len(outcomes) - len(bad)} of {len(outcomes)} "
        "runs finished"
    )
    for one in bad:
        again = " (--retry runs it anew)" if one.kept else ""
        _complain(f"{one.point}: {one.line}{again}")
    return 1 if bad else 0


@_nestedae.command("compare")
@click.argument("folders", metavar="RUN RUN...", type=_FOLDER, nargs=-1)
def _compare(folders: tuple[Path, ...]) -> None:
    """Set the results of runs side by side, with their differences."""
    from nestedae_utils.rerun import runs

    settings, results = runs.compare(folders)
    # A, B, ... Z, 27, 28: the table fits, and the legend has the names
    letters = {
        label: chr(65 + n) if n < 26 else str(n + 1)
        for n, label in enumerate(settings)
    }
    first = next(iter(letters))
    short = letters | {
        f"{label} - {first}": f"{letter} - A"
        for label, letter in letters.items()
    }
    for label, letter in letters.items():
        click.echo(f"{letter}: {label}")
    if len(settings):
        click.echo(f"\n{settings.rename(columns=short).to_string(na_rep='-')}")
    if len(results):
        table = results.rename(columns=short).rename_axis(None)
        shown = table.to_string(na_rep="-", float_format="{:.6g}".format)
        click.echo(f"\n{shown}")


@_nestedae.command("verify")
@click.argument("folder", metavar="RUN", type=_FOLDER)
@click.pass_obj
def _verify(notebooks: Path, folder: Path) -> int:
    """Make RUN again and compare the results.

    They must agree within the tolerances that data/quantities.csv states for
    a second run. Trainings are computed anew.
    """
    from nestedae_utils.rerun import runs

    differences, changes = runs.verify(folder, notebooks, _cells())
    for line in changes:
        click.echo(line)
    for line in differences:
        _complain(line)
    if not differences:
        click.echo(f"{folder}: all results agree")
    return 1 if differences else 0


@_nestedae.command("fit")
@click.argument("file", metavar="FILE.yml", type=_FOLDER)
@click.option("-o", "out", type=_FOLDER, help="Folder of what is written.")
@click.option(
    "--by",
    type=click.Choice(["declared", "row", "group"]),
    default="declared",
    help="What the folds are drawn by; as the file says if not given.",
)
@click.option("--device", default="cpu", help="auto, cpu, cuda, cuda:N, mps.")
@_force
def _fit(
    file: Path, out: Path | None, by: str, device: str, force: bool
) -> None:
    """Fit the scales that FILE.yml declares on tables of your own.

    The folder, named after the file if -o does not name another, gets the
    model, the report of the cross-validation beside baselines, and the
    held-out predictions.
    """
    from nestedae_utils.model.scales import resolve_device
    from nestedae_utils.own import fit as own_data
    from nestedae_utils.own.declaration import read_declaration

    resolve_device(device)
    declared = read_declaration(file)
    folder = out or Path(declared.title)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: not a folder; choose another with -o.")
    model = folder / f"{declared.title}{own_data.ENDING}"
    if model.exists() and not force:
        raise DataError(
            f"{model}: a model is there; choose another folder with -o, or "
            "--force replaces it."
        )
    fitted = own_data.fit(declared, by=by, device=device)
    paths = fitted.write(folder)
    shown = fitted.report.round(4).astype(object).fillna("")
    click.echo(shown.to_string(index=False))
    for path in paths:
        click.echo(path)


@_nestedae.command("predict")
@click.argument("model", type=_FOLDER)
@click.argument("table", metavar="NEW.csv", type=_FOLDER)
@click.option("-o", "out", type=_FOLDER, help="File to write, not stdout.")
@click.option("--scale", default="", help="The last one if not given.")
def _predict(model: Path, table: Path, out: Path | None, scale: str) -> None:
    """Predict with MODEL, from nestedae fit, for the rows of NEW.csv."""
    from nestedae_utils.own import fit as own_data

    fitted = own_data.load(model)
    rows = own_data.read_table(table)
    found = own_data.predict(fitted, rows, scale, str(table))
    if out is None:
        click.echo(found.to_csv(index=False, lineterminator="\n"), nl=False)
    elif out.resolve() in (table.resolve(), model.resolve()):
        raise ParameterError(
            f"-o: {out} given, another file than the input is allowed."
        )
    else:
        click.echo(own_data.write_table(found, out))


def _cells() -> Callable[[int, int], None]:
    """Return what tells of each cell in a line."""
    began = time.perf_counter()

    def report(cell: int, of: int) -> None:
        seconds = time.perf_counter() - began
        click.echo(f"cell {cell} of {of}, {seconds:.0f} s", err=True)

    return report
