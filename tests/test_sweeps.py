"""Sweeps: grids, runs here and on a Dask cluster, table and plot."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pandas as pd
import psutil
import pytest
from conftest import NO_PAGE, ROOT, marked, names, process, tiny
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from nestedae_utils.book import parameters
from nestedae_utils.errors import ParameterError
from nestedae_utils.rerun import comparison, execution, runs, sweeps
from nestedae_utils.rerun.execution import RunError


def planned(notebooks, *axes, **fixed):
    return sweeps.grid(parameters.find("90", notebooks), axes, fixed)


# --- grids -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("chapter", "axes", "points"),
    [
        ("03", "seeds=1..3", "seeds=1, seeds=2, seeds=3"),
        ("03", "seeds=2..2,9", "seeds=2, seeds=9"),
        ("03", "noise=0.5,1e-2", "noise=0.5, noise=0.01"),
        ("05", "latent_sizes=2,4;8", "latent_sizes=2,4, latent_sizes=8"),
        # the last axis varies fastest
        (
            "03",
            "settings=text,inputs latent=5..6",
            "settings=text latent=5, settings=text latent=6, "
            "settings=inputs latent=5, settings=inputs latent=6",
        ),
    ],
)
def test_grids(chapter, axes, points):
    what = sweeps.grid(parameters.find(chapter), axes.split(), {})
    assert ", ".join(one.point for one in what) == points
    again = sweeps.grid(parameters.find(chapter), axes.split(), {"epochs": 7})
    assert [one.given for one in again] == [one.given | {"epochs": 7} for one in what]


@given(st.lists(st.text(alphabet="0123456789.,;=seed-+e"), max_size=3))
def test_any_grid_is_one_or_is_refused_in_one_line(axes):
    one = parameters.find("01")
    what, line = [], ""
    try:
        what = sweeps.grid(one, axes, {})
    except ParameterError as error:
        line = str(error)
    assert len(line.splitlines()) == (not what)
    assert len({plan.key for plan in what}) == len(what) <= sweeps.LIMIT
    for plan in what:
        parameters.effective(one, plan.given)


def test_ten_thousand_runs_are_planned_each_with_its_own_key():
    what = sweeps.grid(parameters.find("01"), ["seed=0..9999"], {})
    assert len({plan.key for plan in what}) == 10_000


def test_the_readmes_sweep_can_be_planned():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = re.search(r"nestedae sweep (.*)", readme)[1].split()
    chapter, option, *axes, last, fixed = words
    assert (option, last) == ("--grid", "-p")
    notebook = parameters.find(chapter)
    values = parameters.parse(notebook, parameters.assignments([fixed]))
    assert len(sweeps.grid(notebook, axes, values)) == 10 * 3


# --- here ------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Return (notebooks, folder) of a sweep; tests copy or only read it."""
    folder = tmp_path_factory.mktemp("local")
    tiny(folder / "notebooks")
    what = planned(folder / "notebooks", "seed=0..2", "noise=0,1")
    lines = []
    done = sweeps.sweep(what, folder / "sweep", 2, tell=lines.append)
    assert len(lines) == 6
    assert all(isinstance(one, runs.Run) for one in done.values())
    return folder / "notebooks", folder / "sweep"


@pytest.fixture
def copied(local, tmp_path):
    shutil.copytree(local[0], tmp_path / "notebooks", dirs_exist_ok=True)
    shutil.copytree(local[1], tmp_path / "sweep")
    return tmp_path / "notebooks", tmp_path / "sweep"


def test_a_sweep_has_a_table_a_plot_and_all_runs(local):
    notebooks, folder = local
    assert names(folder) == ["runs", "sweep.csv", "sweep.json", "sweep.svg"]
    assert names(folder.parent) == ["notebooks", "sweep"]
    frame = pd.read_csv(folder / "sweep.csv")
    assert list(frame) == [
        "run",
        *parameters.find("90", notebooks).parameters,
        *"quantity value spread unit replicas low high".split(),
    ]
    assert frame["value"].tolist() == [0, 0.1, 1, 1.1, 2, 2.1]
    assert names(folder / "runs") == sorted(frame["run"])
    for name in frame["run"]:
        assert runs.read(folder / "runs" / name).record["status"] == 0
    assert ET.parse(folder / "sweep.svg").getroot().tag.endswith("svg")


def test_a_sweep_makes_what_is_missing(copied, monkeypatch):
    notebooks, folder = copied
    what = planned(notebooks, "seed=0..2", "noise=0,1")
    shutil.rmtree(folder / "runs" / what[3].key[:16])
    (folder / "runs" / what[0].key[:16] / "results.json").write_text("")
    line, *others = sweeps.sweep(what, folder).values()
    assert re.search("not a chapter's results.*--retry runs it anew", line)
    assert [one.found for one in others] == [True, True, False, True, True]
    assert len(pd.read_csv(folder / "sweep.csv")) == 5
    for _ in range(2):
        (again,) = sweeps.sweep(what[:1], folder, force=True).values()
        assert not again.found
        assert len(names(folder / "runs")) == 6
    # and now no kernel is started
    monkeypatch.setattr(execution, "execute", None)
    assert all(one.found for one in sweeps.sweep(what, folder).values())


def test_another_grid_keeps_what_is_there(copied):
    notebooks, folder = copied
    done = sweeps.sweep(planned(notebooks, "seed=1..3"), folder)
    assert [one.found for one in done.values()] == [True, True, False]
    assert len(pd.read_csv(folder / "sweep.csv")) == 3
    assert len(names(folder / "runs")) == 7


@pytest.mark.slow
def test_failed_runs_are_listed_and_retried_on_request(notebooks, tmp_path):
    what, folder = planned(notebooks, "fail=false,true"), tmp_path / "sweep"
    for retry, kept in ((False, False), (False, True), (True, False)):
        run, line = sweeps.sweep(what, folder, retry=retry).values()
        assert run.results["records"]
        assert "no luck" in line
        assert line.endswith("(--retry runs it anew)") == kept
    assert len(pd.read_csv(folder / "sweep.csv")) == 1


@pytest.mark.slow
def test_a_killed_kernel_costs_one_retried_run(notebooks, tmp_path):
    flag = tmp_path / "flag"
    what = planned(notebooks, "seed=0..1", die=str(flag))
    done = sweeps.sweep(what, tmp_path / "sweep").values()
    assert flag.exists()
    assert [one.results["records"][0]["value"] for one in done] == [0, 1]
    assert names(tmp_path / "sweep" / "runs") == sorted(plan.key[:16] for plan in what)


def test_two_sweeps_in_one_folder(copied):
    notebooks, folder = copied
    with (
        runs.held(folder, sweeps.RECORD),
        pytest.raises(RunError, match="another run is being made there"),
    ):
        sweeps.sweep(planned(notebooks, "seed=0"), folder)


@pytest.mark.parametrize("axes", [["a"], ["a", "b"], ["b", "a"], ["c", "a", "b"]])
@pytest.mark.filterwarnings("error")
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
    figure = comparison.plot(frame, axes)
    drawn = figure.axes
    assert [ax.get_title() for ax in drawn] == ["one", "two", "three", "four"]
    assert drawn[-1].get_xlabel() == axes[0]
    assert drawn[0].get_ylabel() == "eV"
    figure.savefig(tmp_path / "x.svg")


# --- on a cluster ----------------------------------------------------------


class Cluster:
    """A real scheduler and its real workers, processes of their own."""

    def __init__(self, folder, environment):
        self.folder, self.environment, self.workers = folder, environment, []
        path = folder / "scheduler.json"
        words = "scheduler --host 127.0.0.1 --port 0 --no-dashboard"
        self.scheduler = self.start(f"{words} --scheduler-file {path}")
        self.address = None
        while not self.address:
            assert self.scheduler.poll() is None, "the scheduler ended"
            time.sleep(0.1)
            # it may not be there yet, or not be written in full
            with contextlib.suppress(OSError, ValueError):
                self.address = json.loads(path.read_text())["address"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in [*self.workers, self.scheduler]:
            one.kill()
            one.wait()

    def hire(self):
        """Start two workers."""
        # no nanny: nothing starts a killed worker again
        words = f"worker {self.address} --nthreads 1 --no-nanny --no-dashboard"
        words += f" --local-directory {self.folder / 'scratch'} --name w"
        self.workers = [self.start(f"{words}{number}") for number in (1, 2)]

    def start(self, words):
        name, *rest = words.split()
        code = f"{NO_PAGE}from distributed.cli.dask_{name} import main; main()"
        command = [sys.executable, "-c", code, *rest]
        environment = os.environ | self.environment
        with open(self.folder / "log.txt", "a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def at_work(self):
        """Return a worker that has a kernel; where all failed there never is one."""
        end = time.time() + 400
        while time.time() < end:
            for worker in self.workers:
                for child in psutil.Process(worker.pid).children():
                    # a kernel may end between being listed and being asked
                    with contextlib.suppress(psutil.Error):
                        if "ipykernel_launcher" in child.cmdline():
                            return worker
            time.sleep(0.05)
        raise AssertionError((self.folder / "log.txt").read_text()[-3000:])

    def at_rest(self):
        """Tell whether nothing is left but scheduler and live workers."""
        alive = [
            one.pid for one in [*self.workers, self.scheduler] if one.poll() is None
        ]
        for _ in range(3000):
            left = marked(self.environment["TEST_MARK"])
            if {one.pid for one in left} == set(alive):
                return True
            time.sleep(0.1)
        return False


@pytest.fixture
def cluster(tmp_path):
    environment = {"TEST_MARK": f"mark-{tmp_path}", "PYTHONPATH": str(ROOT)}
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster", environment) as cluster:
        cluster.hire()
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=300)
        yield cluster


@pytest.mark.slow
def test_a_worker_killed_at_work_costs_one_retried_run(cluster, local, tmp_path):
    notebooks, here = local
    lines, there = [], tmp_path / "there"

    def tell(line):
        lines.append(line)
        if len(lines) == 1:
            # a run has arrived, so the worker is at the next one
            worker = cluster.at_work()
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()

    what = planned(notebooks, "seed=0..2", "noise=0,1")
    done = sweeps.sweep(what, there, dask=cluster.address, tell=tell)
    assert all(isinstance(one, runs.Run) for one in done.values())
    assert len(lines) == 6
    one, other = (pd.read_csv(f / "sweep.csv") for f in (here, there))
    pd.testing.assert_frame_equal(one, other)
    for name in one["run"]:
        assert names(there / "runs" / name) == names(here / "runs" / name)
    assert cluster.at_rest(), "the dead worker's kernel went with it"


@pytest.mark.slow
def test_a_cluster_reports_failures_and_can_be_left(
    cluster, notebooks, tmp_path, monkeypatch
):
    there = {"dask": cluster.address}
    what = planned(notebooks, "fail=true,false")
    line, run = sweeps.sweep(what, tmp_path / "a", **there).values()
    assert "cell 3 of 6: RuntimeError: no luck" in line
    assert run.results["records"]
    (failed,) = (tmp_path / "a" / "runs").glob("*.failed")
    assert "no luck" in (failed / "90_tiny.ipynb").read_text()

    # Ctrl-C: the workers drop their runs, and can be used again
    words = f"sweep 90 --grid seed=0..3 -p wait=900 -o {tmp_path / 'b'}"
    command = process(notebooks, f"{words} --dask {cluster.address}")
    cluster.at_work()
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=300)
    assert command.returncode == 130
    assert err.splitlines()[-1].startswith("nestedae: stopped by SIGINT")
    assert cluster.at_rest()
    assert names(tmp_path / "b" / "runs") == []
    done = sweeps.sweep(planned(notebooks, "seed=7"), tmp_path / "b", **there)
    assert all(isinstance(one, runs.Run) for one in done.values())

    monkeypatch.setattr(runs, "package_digest", lambda: "another")
    done = sweeps.sweep(planned(notebooks, "seed=1"), tmp_path / "c", **there)
    assert "has another version of the package" in "".join(done.values())


@pytest.mark.slow
def test_a_scheduler_that_is_lost(cluster, notebooks, tmp_path):
    """What arrived is kept; the rest is listed."""

    def tell(line):
        cluster.scheduler.kill()
        cluster.scheduler.wait()

    what, folder = planned(notebooks, "seed=0..5"), tmp_path / "x"
    done = sweeps.sweep(what, folder, dask=cluster.address, tell=tell).values()
    lines = [one for one in done if isinstance(one, str)]
    assert set(lines) == {"the scheduler was lost"}
    assert len(pd.read_csv(folder / "sweep.csv")) == 6 - len(lines) >= 1
