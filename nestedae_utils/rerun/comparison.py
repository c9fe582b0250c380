"""Runs side by side: compared, made again from their records, drawn as a sweep."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from nestedae_utils.book import claims, parameters, records
from nestedae_utils.data import files
from nestedae_utils.errors import ParameterError, replacing
from nestedae_utils.rerun.execution import Report, RunError
from nestedae_utils.rerun.runs import Plan, Run, make, plan, read


def compare(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the parameters in which runs differ, and their results.

    Both have a column for each run; the results also one for each run's
    difference from the first.
    """
    if len(folders) < 2:
        raise ParameterError(f"runs: {len(folders)} given, at least 2 are allowed.")
    first, settings, results = str(folders[0]), {}, {}
    for label, one in {str(folder): read(folder) for folder in folders}.items():
        settings[label] = {"chapter": one.record["chapter"], **one.record["parameters"]}
        values = {r["quantity"]: r["value"] for r in one.results["records"]}
        results[label] = pd.Series(values, dtype=float)
        if label != first:
            results[f"{label} - {first}"] = results[label] - results[first]
    table = pd.DataFrame(settings, dtype=object)
    return table[table.map(repr).nunique(axis=1) > 1], pd.DataFrame(results)


def verify(
    folder: Path, notebooks: Path, report: Report | None = None
) -> tuple[list[str], list[str]]:
    """Make a run again from its record, trainings too; compare the results.

    Returns lines on the quantities that leave the repeat tolerance of
    ``data/quantities.csv``, on verdicts that turn, and on data, versions and
    sources that are not as recorded.
    """
    before = read(folder)
    notebook = parameters.find(before.record["chapter"], notebooks)
    what = plan(notebook, before.record["parameters"])
    with tempfile.TemporaryDirectory(prefix="nestedae-verify-") as scratch:
        fresh, trainings = Path(scratch, "run"), Path(scratch, "cache")
        trainings.mkdir()
        # trainings are computed anew, downloads are not
        (trainings / "data").symlink_to(files.folder().absolute())
        variables = {files.CACHE_VARIABLE: str(trainings)}
        record = make(what, fresh, variables, report=report)
        if record["status"] != 0:
            raise RunError(f"{notebook.name}: {record['error']}")
        again = read(fresh)
    old, new = _used(before.record), _used(record)
    lines = [
        f"{name} {new.get(name, 'none')} now, {old.get(name, 'none')} recorded"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if before.record["notebook"] != record["notebook"]:
        lines.append("notebook: changed since")
    if before.record["package"].get("digest") != record["package"]["digest"]:
        lines.append("package: sources or tables changed since")
    now, then = ({again.results["chapter"]: one.results} for one in (again, before))
    turned = [f"{name}: {words}" for name, words in claims.turned(now, then).items()]
    return records.differences(again.results, before.results) + turned, lines


def _used(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the data and the libraries that a run used."""
    data, versions = record["checksums"].items(), record["versions"].items()
    used = {f"data {name}: sha256": str(sha256)[:12] for name, sha256 in data}
    return used | {f"version of {name}:": str(text) for name, text in versions}


def write(outcomes: Mapping[Plan, Run | str], folder: Path) -> None:
    """Write a row for each finished run and quantity of a sweep, and a plot."""
    rows = [
        {"run": run.folder.name, **one.effective}
        | {name: record.get(name) for name in records.OURS}
        for one, run in outcomes.items()
        if isinstance(run, Run)
        for record in run.results["records"]
    ]
    frame = pd.DataFrame(rows)
    if frame.empty:
        # those of an earlier sweep would tell of other runs
        for name in ("sweep.csv", "sweep.svg"):
            (folder / name).unlink(missing_ok=True)
        return
    with replacing(folder / "sweep.csv") as beside:
        frame.to_csv(beside, index=False)
    with replacing(folder / "sweep.svg") as beside:
        figure = plot(frame, drawn_by([one.given for one in outcomes]))
        figure.savefig(beside, format="svg")


def drawn_by(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the parameters to draw by, the one of most values first.

    They are those in which the runs differ; a seed is what is averaged over,
    unless nothing else differs.
    """
    values = pd.DataFrame(given).nunique().sort_values(ascending=False, kind="stable")
    differ = list(values[values > 1].index) or list(values.index[:1])
    return [name for name in differ if name != "seed"] or differ


def plot(frame: pd.DataFrame, axes: Sequence[str]) -> Figure:
    """Draw each quantity of a table against the first of the axes.

    A point is a run; the lines, one for each value of the second axis, join
    their means.
    """
    import seaborn as sns

    from nestedae_utils.book.figures import STYLE

    first, second = [*axes, None][:2]
    texts = [n for n in axes if n == second or frame[n].dtype.kind not in "if"]
    frame = frame.assign(**{n: frame[n].map(parameters.written) for n in texts})
    drawn = {"x": first, "y": "value", "hue": second, "style": second}
    units = dict(zip(frame["quantity"], frame["unit"], strict=True))
    columns = 2 if len(units) in (2, 4) else min(3, len(units))
    layout = {"col": "quantity", "col_wrap": columns, "facet_kws": {"sharey": False}}
    # seaborn has a layout of its own
    with rc_context({"backend": "agg", "figure.constrained_layout.use": False}, STYLE):
        panels = sns.relplot(
            frame, **drawn, **layout, kind="line", errorbar=None, height=2.4
        )
        panels.map_dataframe(sns.scatterplot, **drawn)
        panels.set_titles("{col_name}")
        values = sorted(set(frame[first]))
        for name, ax in panels.axes_dict.items():
            ax.set_ylabel(units[name] or "1")
            if len(values) <= 8:
                ax.set_xticks(values)
        panels.tight_layout()
    return panels.figure
