"""The command ``nestedae``: chapters re-run with parameters of one's own.

Exit statuses: 0, all is well; 1, something failed or differs; 2, the command
was given something that is not allowed; 130 and 143, stopped by Ctrl-C or
SIGTERM.  Errors are one line on stderr.
"""

import csv
import functools
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nestedae_utils.book import parameters
from nestedae_utils.data.files import DATA, NOTEBOOKS
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.rerun.shell import Interrupted, complain, reporter, shell, tell

# What makes runs loads pandas and more; each command imports what it needs.


def main(arguments: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS) -> int:
    """Run the command on the chapters of a folder; return its exit status."""
    try:
        with shell() as settings:
            status = _nestedae.main(arguments, "nestedae", obj=notebooks, **settings)
            sys.stdout.flush()
            return status or 0
    except Interrupted as stopped:
        (number,) = stopped.args
        complain(f"stopped by {number.name}; finished runs are kept, no other.")
        return 128 + number
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "nestedae"
        words = error.format_message().rstrip(".")
        mark = "" if words.endswith("?") else "."
        complain(f"{words}{mark} See {where} --help.")
        return 2
    except BrokenPipeError:
        # the reader, head for instance, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 1
    except (ParameterError, DataError, RuntimeError, OSError) as error:
        complain(str(error))
        return 2 if isinstance(error, ParameterError) else 1


Notebook = parameters.Notebook
Texts = Sequence[str]


def _find(context: click.Context, _: click.Parameter, chapter: str) -> Notebook:
    return parameters.find(chapter, context.obj)


_PATH = click.Path(path_type=Path)
_chapter = click.argument("notebook", metavar="CHAPTER", callback=_find)
_more = click.argument("more", metavar="[NAME=VALUE]...", nargs=-1)
_force = click.option("--force", is_flag=True, help="Run anew.")
_out = functools.partial(click.option, "-o", "out", type=_PATH)
_FOLDS = click.Choice(["declared", "row", "group"])
_BY = "What the folds are drawn by; as the file says if not given."
_AXIS = "An axis: noise=0,0.5,1 or seed=0..9; more may follow."
_JOBS = "Runs at a time on this machine; 1 if not given."
_REST = "A parameter; may be repeated. The others keep their defaults."
_given = click.option("-p", "given", metavar="NAME=VALUE", multiple=True, help=_REST)


@click.group("nestedae", no_args_is_help=False)
def _nestedae() -> None:
    """Re-run the chapters of the NestedAE companion."""


@_nestedae.command("list")
@click.pass_obj
def _list(notebooks: Path) -> None:
    """List the chapters, what they reproduce, and how long they run."""
    with (DATA / "times.csv").open(encoding="utf-8") as file:
        steps = {r["chapter"]: int(r["replica_steps"]) for r in csv.DictReader(file)}
    for name in parameters.chapters(notebooks):
        one = parameters.find(name, notebooks)
        click.echo(f"{click.style(name, bold=True)}  {one.title}")
        times = one.run_time
        if steps.get(name):
            times += f" It trains {steps[name] / 1e6:.2g} million replica-steps."
        for text in filter(None, [one.summary, times]):
            click.echo(textwrap.indent(textwrap.fill(text, 74), "    "))
        click.echo()


@_nestedae.command("params")
@_chapter
def _params(notebook: Notebook) -> None:
    """List the parameters of CHAPTER (05, or its name)."""
    rows = [("name", "type", "default", "allowed", "meaning")]
    for one in notebook.parameters.values():
        default = parameters.written(one.default)
        rows.append((one.name, one.kind.__name__, default, one.allowed, one.help))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@_nestedae.command("run")
@_chapter
@_more
@_given
@_out(help="Folder of the run.")
@_force
def _run(
    notebook: Notebook, more: Texts, given: Texts, out: Path | None, force: bool
) -> None:
    """Run CHAPTER with parameters, into a folder.

    The folder gets the executed notebook, the same as HTML, results.json,
    the figures, and run.json, which tells how all of it was made. The same
    arguments again find the run that is there.
    """
    values = parameters.parse(notebook, parameters.assignments([*given, *more]))
    from nestedae_utils.rerun import runs

    what = runs.plan(notebook, values)
    done = runs.run(what, out or what.folder, force, report=reporter())
    how = "finished in {seconds:g} s"
    if done.found:
        how = "this run is there, finished {finished}; --force runs anew."
    click.echo(f"{runs.shown(done.folder)}: {how.format_map(done.record)}")


@_nestedae.command("sweep")
@_chapter
@_more
@click.option("--grid", metavar="NAME=VALUES", multiple=True, help=_AXIS)
@_given
@click.option("--jobs", type=click.IntRange(1, 64), help=_JOBS)
@click.option("--dask", metavar="ADDRESS", help="A Dask scheduler to use.")
@_out(help="Folder of the sweep.")
@click.option("--retry", is_flag=True, help="Run those anew that failed.")
@_force
def _sweep(notebook: Notebook, given: Texts, out: Path | None, **how: Any) -> int:
    """Run CHAPTER for every combination of a grid of parameters.

    Each combination is a run; sweep.csv has all their results, sweep.svg
    draws them. The same sweep again makes what is missing.
    """
    if None not in (how["jobs"], how["dask"]):
        raise ParameterError("--jobs and --dask: both given, one of them is allowed.")
    from nestedae_utils.rerun import runs, sweeps

    fixed = parameters.parse(notebook, parameters.assignments(given))
    axes = [*how.pop("grid"), *how.pop("more")]
    what = sweeps.grid(notebook, axes, fixed)
    folder = out or sweeps.default_folder(what)
    outcomes = sweeps.sweep(what, folder, tell=tell, **how)
    failed = {p: line for p, line in outcomes.items() if isinstance(line, str)}
    finished = len(outcomes) - len(failed)
    click.echo(f"{runs.shown(folder)}: {finished} of {len(outcomes)} runs finished")
    for one, line in failed.items():
        complain(f"{one.point}: {line}")
    return 1 if failed else 0


@_nestedae.command("campaign")
@click.argument("file", metavar="POOL.csv", type=_PATH)
@click.option("--target", default="", help="Column to look up, of a simulation.")
@click.option("--instrument", metavar="MODULE:FUNCTION", help="What measures.")
@click.option("--policy", default="improvement", help="What chooses the next arm.")
@click.option("--first", type=int, default=5, help="Random arms at first.")
@click.option("--budget", type=int, default=20, help="Measurements in all.")
@click.option("--instruments", type=int, default=1, help="At a time.")
@click.option("--rounds", is_flag=True, help="Wait for all before choosing again.")
@click.option("--retries", type=int, default=2, help="After a failed attempt.")
@click.option("--seed", type=int, default=0, help="Of the first arms, and of ties.")
@click.option("--seconds", type=float, default=0.0, help="A simulated one takes.")
@click.option("--failing", type=float, default=0.0, help="Share of its attempts.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler to use.")
@_out(help="Folder of the campaign.")
def _campaign(file: Path, out: Path | None, scheduler: str | None, **how: Any) -> None:
    """Measure arms of POOL.csv, one row each, by a policy.

    The folder is the campaign's state: the same command again goes on with
    it. campaign.csv has every measurement.
    """
    from nestedae_utils.rerun import campaign, pools

    pool, named = pools.read(file, how.pop("target")), how.pop("instrument")
    folder = out or Path(f"{file.stem}-campaign")
    costs = how.pop("seconds"), how.pop("failing")
    measure = pools.instrument(named) if named else pools.Simulated(pool, *costs)
    what = campaign.Settings(**how)
    table = campaign.run(pool, what, folder, measure, scheduler, tell)
    highest = f"highest {table['value'].max():g}"
    told = highest if table["value"].notna().any() else "nothing was measured"
    click.echo(f"{folder}: {len(table)} measurements, {told}")


@_nestedae.command("compare")
@click.argument("folders", metavar="RUN RUN...", type=_PATH, nargs=-1)
def _compare(folders: Sequence[Path]) -> None:
    """Set the results of runs side by side, with their differences."""
    from nestedae_utils.rerun import comparison

    settings, results = comparison.compare(folders)
    short: dict[str, str] = {}
    # A, B, ... Z, 27, 28: the table fits, and the legend has the names
    for number, label in enumerate(settings):
        letter = chr(65 + number) if number < 26 else str(number + 1)
        short |= {label: letter, f"{label} - {settings.columns[0]}": f"{letter} - A"}
        click.echo(f"{letter}: {label}")
    for table, form in ((settings, None), (results, "{:.6g}".format)):
        if len(table):
            table = table.rename(columns=short)
            click.echo(f"\n{table.to_string(na_rep='-', float_format=form)}")


@_nestedae.command("verify")
@click.argument("folder", metavar="RUN", type=_PATH)
@click.pass_obj
def _verify(notebooks: Path, folder: Path) -> int:
    """Make RUN again and compare the results.

    They must agree within the tolerances that data/quantities.csv states for
    a second run. Trainings are computed anew.
    """
    from nestedae_utils.rerun import comparison

    differences, changes = comparison.verify(folder, notebooks, reporter())
    agree = [] if differences else [f"{folder}: all results agree"]
    for line in [*changes, *agree]:
        click.echo(line)
    for line in differences:
        complain(line)
    return 1 if differences else 0


@_nestedae.command("fit")
@click.argument("file", metavar="FILE.yml", type=_PATH)
@_out(help="Folder of what is written.")
@click.option("--by", type=_FOLDS, default="declared", help=_BY)
@click.option("--device", default="cpu", help="auto, cpu, cuda, cuda:N, mps.")
@_force
def _fit(file: Path, out: Path | None, by: str, device: str, force: bool) -> None:
    """Fit the scales that FILE.yml declares on tables of your own.

    The folder, named after the file if -o does not name another, gets the
    model, the report of the cross-validation beside baselines, and the
    held-out predictions.
    """
    from nestedae_utils.book import progress
    from nestedae_utils.model import training
    from nestedae_utils.own import declaration, fit

    training.resolve_device(device)
    training.watch = progress.bar
    declared = declaration.read_declaration(file)
    folder = out or Path(declared.title)
    if os.path.lexists(folder) and not folder.is_dir():
        raise DataError(f"{folder}: not a folder; choose another with -o.")
    for path in filter(Path.exists, fit.written(declared, folder) if not force else ()):
        what = "a model is there" if path.suffix == fit.ENDING else "is there already"
        words = f"{what}; choose another folder with -o, or --force replaces it."
        raise DataError(f"{path}: {words}")
    fitted = fit.fit(declared, by=by, device=device)
    paths = fitted.write(folder)
    report = fitted.report.astype(object).fillna("")
    click.echo(report.to_string(index=False, float_format="{:.4g}".format))
    click.echo("\n".join(map(str, paths)))


@_nestedae.command("advise")
@click.argument("file", metavar="FILE.yml", type=_PATH)
def _advise(file: Path) -> None:
    """Forecast whether nesting pays for the scales of FILE.yml.

    One row a target: what was measured, the gain that chapter 19's rule
    forecasts (nested minus single error, in deviations), its chance.
    """
    from nestedae_utils.own import advise, declaration

    lines = advise.advise(declaration.read_declaration(file)).round(3)
    for _, line in lines.iterrows():
        click.echo(f"{line.dropna().to_string()}\n")


@_nestedae.command("predict")
@click.argument("model", type=_PATH)
@click.argument("table", metavar="NEW.csv", type=_PATH)
@_out(help="File to write, not stdout.")
@click.option("--scale", default="", help="The last one if not given.")
def _predict(model: Path, table: Path, out: Path | None, scale: str) -> None:
    """Predict with MODEL, from nestedae fit, for the rows of NEW.csv."""
    from nestedae_utils.data import tables
    from nestedae_utils.own import fit

    if out is None and getattr(sys.stdout, "name", "") == os.devnull:
        raise ParameterError("-o: none given, and stdout is closed; name a file.")
    if out and out.resolve() in (table.resolve(), model.resolve()):
        words = "given, another file than the input is allowed."
        raise ParameterError(f"-o: {out} {words}")
    fitted = fit.load(model)
    rows = tables.read_text(table)
    predicted = fit.predict(fitted, rows, scale, str(table)).reset_index(drop=True)
    text = predicted.to_csv(index=False, lineterminator="\n")
    click.echo(fit.write_table(predicted, out) if out else text, nl=bool(out))
