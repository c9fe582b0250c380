"""Sweeps: grids, runs here and on a Dask cluster, table and plot."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import CancelledError

import pandas as pd
import pytest
from conftest import ROOT, marked, tiny
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from nestedae_utils import cli
from nestedae_utils.book import parameters
from nestedae_utils.errors import ParameterError
from nestedae_utils.rerun import runs, sweeps
from nestedae_utils.rerun.runs import RunError

QUANTITY = "fig2_clean_single_test"


def planned(notebooks, *axes, **fixed):
    one = parameters.find("90", notebooks)
    return sweeps.plans(one, sweeps.grid(one, axes), fixed)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# --- grids -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("chapter", "axes", "values"),
    [
        ("03", ["seeds=1..3"], {"seeds": [1, 2, 3]}),
        ("03", ["seeds=2..2"], {"seeds": [2]}),
        ("03", ["seeds=1,4..6,9"], {"seeds": [1, 4, 5, 6, 9]}),
        ("03", ["noise=0,0.5,1e-2"], {"noise": [0.0, 0.5, 0.01]}),
        (
            "03",
            ["settings=text,inputs", "latent=5"],
            {"settings": ["text", "inputs"], "latent": [5]},
        ),
        ("05", ["latent_sizes=2,4;8"], {"latent_sizes": ["2,4", "8"]}),
    ],
)
def test_grids(chapter, axes, values):
    assert sweeps.grid(parameters.find(chapter), axes) == values


@given(st.lists(st.text(alphabet="0123456789.,;=seed-+e"), max_size=3))
def test_any_grid_is_one_or_is_refused_in_one_line(axes):
    one = parameters.find("01")
    found, line = None, ""
    try:
        found = sweeps.grid(one, axes)
    except ParameterError as error:
        line = str(error)
    if found is None:
        assert len(line.splitlines()) == 1
    else:
        assert 1 <= math.prod(map(len, found.values())) <= sweeps.LIMIT
        for name, values in found.items():
            assert len(set(values)) == len(values)
            for value in values:
                one.parameters[name].rule.check(name, value)


def test_ten_thousand_runs_are_planned_each_with_its_own_key():
    one = parameters.find("01")
    values = sweeps.grid(one, ["seed=0..9999"])
    what = sweeps.plans(one, values, {})
    assert len({plan.key for plan in what}) == 10_000


def test_the_last_axis_varies_fastest(notebooks):
    what = planned(notebooks, "seed=1..2", "noise=0,1", wait=0.0)
    assert [plan.given for plan in what] == [
        {"seed": seed, "noise": noise, "wait": 0.0}
        for seed in (1, 2)
        for noise in (0.0, 1.0)
    ]


# --- here ------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Return (notebooks, folder) of a sweep; tests copy or only read it."""
    folder = tmp_path_factory.mktemp("local")
    tiny(folder / "notebooks")
    what = planned(folder / "notebooks", "seed=0..2", "noise=0,1")
    told = []
    done = sweeps.sweep(what, folder / "sweep", jobs=2, tell=told.append)
    assert len(told) == 6
    assert all(one.run is not None for one in done)
    return folder / "notebooks", folder / "sweep"


def test_a_sweep_has_a_table_a_plot_and_all_runs(local):
    notebooks, folder = local
    assert files(folder) == ["runs", "sweep.csv", "sweep.json", "sweep.svg"]
    assert files(folder.parent) == ["notebooks", "sweep"]
    assert len(files(folder / "runs")) == 6
    frame = pd.read_csv(folder / "sweep.csv")
    assert len(frame) == 6, "one row for each run and quantity"
    assert list(frame) == [
        "run",
        *parameters.find("90", notebooks).parameters,
        *"quantity value spread unit replicas".split(),
    ]
    assert frame["value"].tolist() == [0, 0.1, 1, 1.1, 2, 2.1]
    assert set(frame["quantity"]) == {QUANTITY}
    for name in frame["run"]:
        assert runs.read(folder / "runs" / name).record["status"] == 0
    assert ET.parse(folder / "sweep.svg").getroot().tag.endswith("svg")


def test_a_finished_sweep_is_found(local, monkeypatch):
    monkeypatch.setattr(runs, "execute", None)
    what = planned(local[0], "seed=0..2", "noise=0,1")
    done = sweeps.sweep(what, local[1])
    assert all(one.kept and one.run for one in done)


@pytest.fixture
def copied(local, tmp_path):
    shutil.copytree(local[0], tmp_path / "notebooks", dirs_exist_ok=True)
    shutil.copytree(local[1], tmp_path / "sweep")
    return tmp_path / "notebooks", tmp_path / "sweep"


def test_a_sweep_makes_what_is_missing(copied):
    notebooks, folder = copied
    what = planned(notebooks, "seed=0..2", "noise=0,1")
    shutil.rmtree(folder / "runs" / what[3].key[:16])
    done = sweeps.sweep(what, folder)
    assert [one.kept for one in done] == [True] * 3 + [False] + [True] * 2
    assert len(pd.read_csv(folder / "sweep.csv")) == 6


def test_a_larger_grid_keeps_what_is_there(copied):
    notebooks, folder = copied
    done = sweeps.sweep(planned(notebooks, "seed=1..3"), folder)
    assert [one.kept for one in done] == [True, True, False]
    assert len(pd.read_csv(folder / "sweep.csv")) == 3
    assert len(files(folder / "runs")) == 7


@pytest.mark.slow
def test_failed_runs_are_listed_and_retried_on_request(notebooks, tmp_path):
    what = planned(notebooks, "fail=false,true", seed=1)
    folder = tmp_path / "sweep"
    done = sweeps.sweep(what, folder)
    assert [one.run is None for one in done] == [False, True]
    assert "no luck" in done[1].line
    assert not done[1].kept
    assert len(pd.read_csv(folder / "sweep.csv")) == 1
    done = sweeps.sweep(what, folder)
    assert done[1].kept
    assert "no luck" in done[1].line
    done = sweeps.sweep(what, folder, retry=True)
    assert done[0].kept
    assert not done[1].kept
    assert "no luck" in done[1].line


@pytest.mark.slow
def test_a_kernel_killed_once_costs_one_retried_run(notebooks, tmp_path):
    flag = tmp_path / "flag"
    what = planned(notebooks, "seed=0..1", die=str(flag))
    done = sweeps.sweep(what, tmp_path / "sweep")
    assert flag.exists()
    assert [one.run.results["records"][0]["value"] for one in done] == [0, 1]
    left = files(tmp_path / "sweep" / "runs")
    assert left == sorted(plan.key[:16] for plan in what)


def test_a_damaged_run_is_listed(copied):
    notebooks, folder = copied
    what = planned(notebooks, "seed=0..2", "noise=0,1")
    (folder / "runs" / what[0].key[:16] / "results.json").write_text("")
    done = sweeps.sweep(what, folder)
    assert "not a chapter's results" in done[0].line
    assert len(pd.read_csv(folder / "sweep.csv")) == 5
    assert sweeps.sweep(what[:1], folder, force=True)[0].run is not None


def test_two_sweeps_in_one_folder(copied):
    notebooks, folder = copied
    with (
        runs.locked(folder),
        pytest.raises(RunError, match="another run is being made there"),
    ):
        sweeps.sweep(planned(notebooks, "seed=0"), folder)


@pytest.mark.parametrize("grid", [["--grid", "seed=0..1"], ["seed=0..1"]])
def test_the_command(grid, notebooks, tmp_path, monkeypatch, capsys):
    """Axes follow --grid, or each has its own."""
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "90", *grid, "noise=0,1", "-o", "s", "--jobs", "2"]
    assert cli.main(words, notebooks) == 0
    out, err = capsys.readouterr()
    assert out == "s: 4 of 4 runs finished\n"
    assert len(err.splitlines()) == 4
    assert "of 4: seed=1 noise=1.0: finished" in err
    words = [*words[:2], "--grid", "seed=0..1", "--grid", "noise=0,1"]
    assert cli.main([*words, "-o", "s"], notebooks) == 0
    out, err = capsys.readouterr()
    assert out == "s: 4 of 4 runs finished\n"
    assert err == "4 of 4 runs are there already\n"


def test_the_command_lists_failures(notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "90", "--grid", "fail=true,false", "-o", "s"]
    assert cli.main(words, notebooks) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(
            "nestedae: fail=true: 90_tiny: cell 3 of 6: RuntimeError: no luck"
        )
    )
    assert cli.main(words, notebooks) == 1
    out, err = capsys.readouterr()
    assert out == "s: 1 of 2 runs finished\n"
    assert err.splitlines()[-1].endswith("(--retry runs it anew)")


# --- plot ------------------------------------------------------------------


@pytest.mark.parametrize(
    "axes", [["a"], ["a", "b"], ["b", "a"], ["a", "b", "c"]]
)
def test_plots_of_numbers_and_texts(axes, tmp_path):
    frame = pd.DataFrame(
        [
            {"a": a, "b": b, "c": c, "quantity": q, "value": a, "unit": "eV"}
            for a in (1, 2, 3)
            for b in ("x", "y")
            for c in (True, False)
            for q in ("one", "two", "three", "four")
            if (a, b) != (1, "x")
        ]
    )
    figure = sweeps.plot(frame, axes)
    drawn = [ax for ax in figure.axes if ax.lines]
    assert [ax.get_title() for ax in drawn] == ["one", "two", "three", "four"]
    assert drawn[0].get_xlabel() == axes[0]
    assert drawn[0].get_ylabel() == "eV"
    figure.savefig(tmp_path / "x.svg")


# --- on a cluster ----------------------------------------------------------


class Cluster:
    """A real scheduler and two real workers, processes of their own."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment
        self.scheduler = self.start(
            "scheduler",
            *("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", folder / "scheduler.json"),
        )
        for _ in range(300):
            if (folder / "scheduler.json").exists():
                break
            time.sleep(0.1)
        text = (folder / "scheduler.json").read_text()
        self.address = json.loads(text)["address"]
        # no nanny: nothing starts a killed worker again
        self.workers = [self.worker(n) for n in (1, 2)]

    def start(self, *words):
        log = open(self.folder / f"{words[0]}.log", "a")  # noqa: SIM115
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0]]
            + list(map(str, words[1:])),
            env=os.environ | self.environment,
            stdout=log,
            stderr=log,
        )

    def worker(self, number):
        return self.start(
            "worker",
            *(self.address, "--nthreads", "1", "--no-nanny"),
            *("--no-dashboard", "--name", f"w{number}"),
            *("--local-directory", self.folder / "scratch"),
        )

    def stop(self):
        for one in [*self.workers, self.scheduler]:
            one.kill()
            one.wait()


@pytest.fixture
def cluster(tmp_path):
    environment = {"TEST_MARK": f"mark-{tmp_path}", "PYTHONPATH": str(ROOT)}
    (tmp_path / "cluster").mkdir()
    made = Cluster(tmp_path / "cluster", environment)
    with Client(made.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    yield made
    made.stop()


@pytest.mark.slow
def test_a_worker_killed_at_work_costs_one_retried_run(
    cluster, local, tmp_path
):
    notebooks, here = local
    told, killed = [], []
    what = planned(notebooks, "seed=0..2", "noise=0,1")

    def tell(line):
        told.append(line)
        if not killed:
            # a run has arrived, so the worker is at the next one
            killed.append(at_work(cluster))
            os.kill(killed[0].pid, signal.SIGKILL)
            killed[0].wait()

    done = sweeps.sweep(
        what, tmp_path / "there", dask=cluster.address, tell=tell
    )
    assert killed
    assert [one.line for one in done] == [""] * 6
    assert len(told) == 6
    one, other = (
        pd.read_csv(folder / "sweep.csv")
        for folder in (here, tmp_path / "there")
    )
    pd.testing.assert_frame_equal(one, other)
    for name in one["run"]:
        assert files(tmp_path / "there" / "runs" / name) == files(
            here / "runs" / name
        )
    # the dead worker's kernel went with it
    left = gone(cluster)
    assert {process.pid for process in left} == {
        process.pid
        for process in [*cluster.workers, cluster.scheduler]
        if process.poll() is None
    }


def at_work(cluster):
    """Return a worker that has a notebook's execution as its child."""
    import psutil

    for _ in range(300):
        for worker in cluster.workers:
            for child in psutil.Process(worker.pid).children():
                if "nestedae_utils.rerun.execution" in child.cmdline():
                    return worker
        time.sleep(0.05)
    raise AssertionError("no worker is at work")


def gone(cluster, limit=4):
    """Return what is left of the cluster once it is at rest."""
    for _ in range(200):
        left = marked(cluster.environment["TEST_MARK"])
        if len(left) < limit:
            break
        time.sleep(0.1)
    return left


def test_a_result_that_went_with_its_worker_is_waited_for(
    notebooks, monkeypatch
):
    """A done result lies with its worker; with that it is pending again."""

    class Future:
        def __init__(self, status):
            self.status = status

    class Arrivals(list):
        def __init__(self, futures, loop):
            super().__init__(futures)

        def __iter__(self):
            while self:
                yield self.pop(0)

        def add(self, future):
            future.status = "finished"
            self.append(future)

    class Scheduler:
        loop = None
        cancelled = ()

        def __init__(self, *statuses):
            self.futures = [Future(status) for status in statuses]
            self.left = list(self.futures)

        def scheduler_info(self, n_workers):
            return {"workers": ["one"]}

        def submit(self, *_, pure):
            return self.left.pop(0)

        def cancel(self, futures):
            self.cancelled = futures

    def arrived(plan, future, folder, force):
        assert future.status == "finished"
        return plan.given["seed"]

    monkeypatch.setattr("distributed.as_completed", Arrivals)
    monkeypatch.setattr(sweeps, "_arrived", arrived)
    client = Scheduler("pending", "finished")
    what = planned(notebooks, "seed=1,2")
    made = sweeps._there(what, None, client, False, None)
    assert list(made) == [2, 1], "the lost one comes last, and comes once"
    assert client.cancelled == client.futures


@pytest.mark.parametrize(
    ("status", "error", "line"),
    [
        ("cancelled", None, "the scheduler was lost"),
        ("finished", CancelledError(), "the scheduler was lost"),
        ("error", ValueError("no luck"), "ValueError('no luck')"),
    ],
)
def test_a_result_that_cannot_be_had_is_told(
    status, error, line, notebooks, tmp_path
):
    """A scheduler may be lost after a result was announced."""

    class Future:
        def __init__(self):
            self.status = status

        def result(self):
            raise error

    (what,) = planned(notebooks, "seed=1")
    done = sweeps._arrived(what, Future(), tmp_path, False)
    assert (done.run, done.line) == (None, line)


@pytest.mark.slow
def test_a_cluster_reports_failures_and_can_be_left(
    cluster, notebooks, tmp_path
):
    what = planned(notebooks, "fail=true,false")
    folder = tmp_path / "there"
    done = sweeps.sweep(what, folder, dask=cluster.address)
    assert "cell 3 of 6: RuntimeError: no luck" in done[0].line
    assert done[1].run is not None
    (failed,) = (folder / "runs").glob("*.failed")
    assert "no luck" in (failed / "90_tiny.ipynb").read_text()

    # Ctrl-C: the workers drop their runs, and can be used again
    start = (
        "import sys; from pathlib import Path;"
        "from nestedae_utils.cli import main;"
        "sys.exit(main(sys.argv[2:], Path(sys.argv[1])))"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", start, notebooks, "sweep", "90"]
        + ["--grid", "seed=0..3", "-p", "wait=60", "-o", str(tmp_path / "x")]
        + ["--dask", cluster.address],
        stderr=subprocess.PIPE,
        text=True,
    )
    at_work(cluster)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    assert err.splitlines()[-1].startswith("nestedae: stopped by SIGINT")
    assert len(gone(cluster)) == 3, "a scheduler and two workers"
    assert list((tmp_path / "x" / "runs").iterdir()) == []
    (again,) = sweeps.sweep(
        planned(notebooks, "seed=7"), tmp_path / "y", dask=cluster.address
    )
    assert again.run is not None


@pytest.mark.slow
def test_another_version_of_the_package_is_refused(
    cluster, notebooks, tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "package_digest", lambda: "another")
    (done,) = sweeps.sweep(
        planned(notebooks, "seed=1"), tmp_path / "x", dask=cluster.address
    )
    assert done.run is None
    assert "has another version of the package" in done.line


@pytest.mark.slow
def test_a_scheduler_that_is_lost(cluster, notebooks, tmp_path):
    """What arrived is kept; the rest is listed."""

    def tell(line):
        cluster.scheduler.kill()
        cluster.scheduler.wait()

    done = sweeps.sweep(
        planned(notebooks, "seed=0..5"),
        tmp_path / "x",
        dask=cluster.address,
        tell=tell,
    )
    kept = [one for one in done if one.run is not None]
    assert kept
    assert len(kept) < 6
    assert all(one.line for one in done if one.run is None)
    assert len(pd.read_csv(tmp_path / "x" / "sweep.csv")) == len(kept)


def test_the_readmes_sweep_can_be_planned():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = re.search(r"nestedae sweep (.*)", readme)[1].split()
    chapter, option, *axes, last, fixed = words
    assert (option, last) == ("--grid", "-p")
    notebook = parameters.find(chapter)
    given = parameters.assignments([fixed])
    plans = sweeps.plans(
        notebook,
        sweeps.grid(notebook, axes),
        parameters.parse(notebook, given),
    )
    assert len(plans) == 10 * 3
