"""One run: made whole or not at all, found again, compared, verified."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import filelock
import nbformat
import psutil
import pytest
from conftest import marked, tiny

from nestedae_utils.book import parameters, records
from nestedae_utils.data import files as datasets
from nestedae_utils.errors import DataError, ParameterError
from nestedae_utils.model import cache
from nestedae_utils.rerun import runs
from nestedae_utils.rerun.execution import Stopped
from nestedae_utils.rerun.runs import RunError

FILES = ["90_tiny.html", "90_tiny.ipynb", "figures", "results.json"]
FILES += ["run.json"]


def planned(notebooks, **given):
    return runs.plan(parameters.find("90", notebooks), given)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return (notebooks, folder of a run) that tests only read or copy."""
    folder = tmp_path_factory.mktemp("finished")
    tiny(folder / "notebooks")
    seen = []
    what = planned(folder / "notebooks", seed=3)
    done = runs.run(what, folder / "run", report=lambda *of: seen.append(of))
    assert not done.found
    # papermill adds the cell of the injected parameters
    assert seen == [(n, 6) for n in range(1, 7)]
    return folder / "notebooks", folder / "run"


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "notebooks", dirs_exist_ok=True)
    shutil.copytree(finished[1], tmp_path / "run")
    return tmp_path / "notebooks", tmp_path / "run"


# --- a whole run -----------------------------------------------------------


def test_a_run_has_all_files_and_nothing_is_beside_it(finished):
    notebooks, folder = finished
    assert names(folder) == FILES
    assert names(folder / "figures") == ["fig-tiny.svg"]
    assert names(folder.parent) == ["notebooks", "run"]
    assert "A tiny one" in (folder / "90_tiny.html").read_text()
    executed = nbformat.read(folder / "90_tiny.ipynb", as_version=4)
    assert executed.cells[2].metadata.tags == ["injected-parameters"]


def test_the_record_says_how_it_was_made(finished):
    record = runs.read(finished[1]).record
    assert record["chapter"] == "90_tiny"
    assert record["given"] == {"seed": 3}
    assert record["parameters"]["noise"] == 0.0
    assert record["seeds"] == {"seed": 3}
    assert record["versions"]["python"] == ".".join(
        map(str, sys.version_info[:3])
    )
    assert set(cache.LIBRARIES) <= set(record["versions"])
    assert set(record["data"]) == set(datasets.registry())
    assert {"commit", "device", "started", "finished"} <= set(record)
    assert record["seconds"] > 0
    assert record["status"] == 0
    assert len(record["key"]) == 64


def test_the_kernel_is_this_python(finished):
    results = json.loads((finished[1] / "results.json").read_text())
    assert Path(results["python"]).samefile(sys.executable)


def test_libraries_are_those_of_the_training_cache():
    assert runs.LIBRARIES == cache.LIBRARIES


def test_the_same_run_is_found_without_a_kernel(finished, monkeypatch):
    monkeypatch.setattr(runs, "execute", None)
    done = runs.run(planned(finished[0], seed=3), finished[1])
    assert done.found
    assert done.results["records"][0]["value"] == 3


def test_defaults_given_and_not_given_are_the_same_run(finished):
    what = planned(finished[0], seed=3, noise=0.0)
    assert what.key == runs.read(finished[1]).record["key"]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"seed": 4}, "with seed=3"), ({}, "with seed=3")],
)
def test_another_run_is_never_replaced_unasked(finished, given, words):
    before = (finished[1] / "run.json").read_bytes()
    with pytest.raises(RunError, match="holds another run") as caught:
        runs.run(planned(finished[0], **given), finished[1])
    assert words in str(caught.value)
    assert "--force" in str(caught.value)
    assert (finished[1] / "run.json").read_bytes() == before


def test_force_replaces_it(copied):
    notebooks, folder = copied
    done = runs.run(planned(notebooks, seed=4), folder, force=True)
    assert not done.found
    assert done.results["records"][0]["value"] == 4
    assert names(folder) == FILES
    assert names(folder.parent) == ["notebooks", "run"]


def test_a_changed_notebook_is_another_run(copied):
    notebooks, folder = copied
    path = notebooks / "90_tiny.ipynb"
    path.write_text(path.read_text().replace("noise / 10", "noise / 20"))
    with pytest.raises(RunError, match="version of the notebook"):
        runs.run(planned(notebooks, seed=3), folder)


def test_changed_data_do_not_return_the_old_run(copied, monkeypatch):
    notebooks, folder = copied
    key = "psc_efficiencies/PSC_efficiencies_dataset.csv"
    record = json.loads((folder / "run.json").read_text())
    record["checksums"] = {key: "0"}
    (folder / "run.json").write_text(json.dumps(record))
    assert runs.run(planned(notebooks, seed=3), folder).found
    now = {**record["data"], key: "another"}
    monkeypatch.setattr(datasets, "present", lambda: now)
    with pytest.raises(RunError, match="data that have changed") as caught:
        runs.run(planned(notebooks, seed=3), folder)
    assert key in str(caught.value)
    other = {**record["data"], "nestedae_synthetic/synthetic_data.csv": "x"}
    monkeypatch.setattr(datasets, "present", lambda: other)
    assert runs.run(planned(notebooks, seed=3), folder).found, "not its data"


def test_a_file_that_comes_later_counts_for_a_chapter_that_reads_it(
    copied, monkeypatch
):
    """A run on the twin is not that on the paper's tables."""
    _, folder = copied
    key = "psc_bandgaps_pbe/PSC_bandgaps_dataset.csv"
    found = runs.read(folder)
    found.record["chapter"] = "05_bandgap_scale"
    found.record["data"] = {key: None}
    monkeypatch.setattr(datasets, "present", lambda: {key: "now"})
    assert runs.changed_data(found) == [key]


def test_present_reads_the_mirror_and_the_cache(tmp_path, monkeypatch):
    key = next(iter(datasets.registry()))
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NESTEDAE_DATA_MIRROR", str(tmp_path / "mirror"))
    assert set(datasets.present().values()) == {None}
    for place in ("mirror", "cache/data"):
        path = tmp_path / place / key
        path.parent.mkdir(parents=True)
        path.write_text(place)
        found = datasets.present()[key]
        assert found == runs.pooch.file_hash(str(path)), place


# --- folders ---------------------------------------------------------------


def test_a_folder_of_others_is_left_alone(notebooks, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for force in (False, True):
        with pytest.raises(RunError, match="not empty, and holds no run"):
            runs.run(planned(notebooks), tmp_path / "mine", force)
    assert names(tmp_path / "mine") == ["thesis.tex"]
    assert names(tmp_path) == ["mine", "notebooks"]


@pytest.mark.parametrize(
    "place", ["file", "file/run", "/proc/x/run", "/proc/x"]
)
def test_a_folder_that_cannot_be(place, notebooks, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="-o") as caught:
        runs.run(planned(notebooks), tmp_path / place)
    assert "\n" not in str(caught.value)
    assert "another run is being made" not in str(caught.value)
    assert names(tmp_path) == ["file", "notebooks"]


@pytest.mark.parametrize("what", ["write_json", "read_results"])
def test_a_full_disk_leaves_nothing(what, notebooks, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "execute", pretended)
    monkeypatch.setattr(records, what, full)
    with pytest.raises(RunError, match="No space left on device"):
        runs.run(planned(notebooks), tmp_path / "run")
    assert names(tmp_path) == ["notebooks"]


def pretended(source, out, parameters, environment, report, stop):
    """Stand for an execution."""
    shutil.copy(source, out)
    folder = Path(environment["NESTEDAE_RESULTS"])
    folder.mkdir()
    (folder / "90_tiny.json").write_text("{}")


def test_two_at_once_in_one_folder(notebooks, tmp_path):
    with (
        filelock.FileLock(tmp_path / ".run.lock"),
        pytest.raises(RunError, match="another run is being made there"),
    ):
        runs.run(planned(notebooks), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_left_is_removed(finished, tmp_path):
    for name in (".run.part-0123", ".run.part-ab"):
        (tmp_path / name).mkdir()
    (tmp_path / ".run.parted").mkdir()
    with runs.locked(tmp_path / "run"):
        assert names(tmp_path) == [".run.lock", ".run.parted"]
    assert names(tmp_path) == [".run.parted"]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "", ".hidden", "a\nb", "x" * 101, 3]
)
def test_a_figures_name_cannot_leave_the_folder(name, tmp_path):
    tiny(tmp_path / "notebooks", figure=name)
    with pytest.raises(DataError, match="figure name") as caught:
        planned(tmp_path / "notebooks")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["notebooks"]


@pytest.mark.parametrize(
    "name", ["../x", "/x", "figures/../../x", "a/b", "..", "figures/.."]
)
def test_files_from_elsewhere_cannot_leave_the_folder(
    name, notebooks, tmp_path
):
    with pytest.raises(RunError, match="file name"):
        runs.adopt(planned(notebooks), tmp_path / "run", {name: b"x"})
    assert names(tmp_path) == ["notebooks"]


# --- failures --------------------------------------------------------------


def test_a_cell_that_fails(notebooks, tmp_path):
    with pytest.raises(RunError) as caught:
        runs.run(planned(notebooks, fail=True), tmp_path / "run")
    line = str(caught.value)
    kept = tmp_path / "run.failed" / "90_tiny.ipynb"
    assert line == (
        "90_tiny: cell 3 of 6: RuntimeError: no luck; the executed notebook "
        f"is {kept}"
    )
    assert "no luck" in kept.read_text()
    assert names(tmp_path) == ["notebooks", "run.failed"]
    record = json.loads((kept.parent / "run.json").read_text())
    assert record["status"] == 1
    with pytest.raises(DataError, match="failed"):
        runs.read(kept.parent)
    # the same again settles it
    assert runs.failure(tmp_path / "run").startswith("cell 3 of 6")
    runs._remove_run(kept.parent)
    assert runs.failure(tmp_path / "run") is None


def test_a_failed_force_keeps_the_old_run(copied):
    notebooks, folder = copied
    before = (folder / "run.json").read_bytes()
    with pytest.raises(RunError, match="no luck"):
        runs.run(planned(notebooks, fail=True), folder, force=True)
    assert (folder / "run.json").read_bytes() == before


def test_a_kernel_that_dies(notebooks, tmp_path):
    with pytest.raises(RunError) as caught:
        runs.run(planned(notebooks, die="yes"), tmp_path / "run")
    assert caught.value.killed
    assert "cell 4 of 6: the kernel died; the executed" in str(caught.value)
    assert names(tmp_path) == ["notebooks", "run.failed"]


def test_a_chapter_without_results(notebooks, tmp_path):
    path = notebooks / "90_tiny.ipynb"
    path.write_text(path.read_text().replace("90_tiny.json", "91.json"))
    with pytest.raises(RunError, match="wrote no results"):
        runs.run(planned(notebooks), tmp_path / "run")
    assert names(tmp_path) == ["notebooks", "run.failed"]


def start(call, mark, monkeypatch):
    """Run a call in a thread until its kernel is at work."""
    monkeypatch.setenv("TEST_MARK", mark)
    caught = []

    def body():
        try:
            call()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, caught


def test_stopping_ends_the_kernel_and_its_workers(
    notebooks, tmp_path, monkeypatch
):
    stop = threading.Event()
    thread, caught = start(
        lambda: runs.run(
            planned(notebooks, workers=2),
            tmp_path / "run",
            stop=stop.is_set,
        ),
        f"mark-{tmp_path}",
        monkeypatch,
    )
    await_workers(f"mark-{tmp_path}")
    stop.set()
    thread.join(20)
    assert isinstance(caught[0], Stopped)
    assert others(f"mark-{tmp_path}") == []
    assert names(tmp_path) == ["notebooks"]


def others(mark):
    return [one for one in marked(mark) if one.pid != os.getpid()]


def await_workers(mark, at_least=4):
    """Wait for the execution, the kernel and two of joblib's workers."""
    for _ in range(300):
        if len(others(mark)) >= at_least:
            return
        time.sleep(0.1)
    raise AssertionError(others(mark))


def test_a_killed_execution_leaves_no_kernel(notebooks, tmp_path, monkeypatch):
    mark = f"mark-{tmp_path}"
    thread, caught = start(
        lambda: runs.run(planned(notebooks, workers=2), tmp_path / "run"),
        mark,
        monkeypatch,
    )
    await_workers(mark)
    (child,) = [
        one
        for one in psutil.Process().children()
        if "nestedae_utils.rerun.execution" in one.cmdline()
    ]
    os.kill(child.pid, signal.SIGKILL)
    thread.join(20)
    assert caught[0].killed
    assert "ended by signal 9" in str(caught[0])
    assert others(mark) == []
    assert names(tmp_path) == ["notebooks", "run.failed"]


# --- runs that are there ---------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", "", "not the record of a run"),
        ("run.json", "[]", "not the record of a run"),
        ("run.json", "{}", "not the record of a run"),
        ("run.json", '{"chapter": 3}', "not the record of a run"),
        ("results.json", "", "not a chapter's results"),
        ("results.json", None, "not found"),
        ("run.json", None, "no run there"),
    ],
)
def test_a_damaged_run(file, content, words, copied):
    path = copied[1] / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        runs.read(copied[1])
    assert "\n" not in str(caught.value)


def test_compare(copied):
    notebooks, folder = copied
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    change(other / "results.json", lambda c: c["records"][0].update(value=5))
    change(other / "run.json", lambda c: c["parameters"].update(seed=5))
    settings, results = runs.compare([folder, other])
    assert settings.index.tolist() == ["seed"]
    assert settings.loc["seed"].tolist() == [3, 5]
    assert results.loc["fig2_clean_single_test"].tolist() == [3, 5, 2]
    with pytest.raises(ParameterError, match="at least 2"):
        runs.compare([folder])


def change(path, how):
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def test_verify(copied):
    notebooks, folder = copied
    assert runs.verify(folder, notebooks) == ([], [])
    change(folder / "results.json", lambda c: c["records"][0].update(value=5))

    def older(record):
        record["versions"]["torch"] = "1.0"
        record["checksums"]["x/y.csv"] = "0123456789abcdef"
        record["package"]["digest"] = "0"
        record["notebook"] = "0"

    change(folder / "run.json", older)
    differences, changes = runs.verify(folder, notebooks)
    (line,) = differences
    assert line.startswith("fig2_clean_single_test: 3 now, 5 in the reference")
    assert changes[0] == "data x/y.csv: sha256 none now, 0123456789ab recorded"
    assert "torch" in changes[1]
    assert changes[2:] == [
        "notebook: changed since",
        "package: sources or tables changed since",
    ]


@pytest.mark.parametrize(
    ("change_to", "error"),
    [
        ({"chapter": "../../x"}, ParameterError),
        ({"parameters": {"seed": "1; import os"}}, ParameterError),
        ({"parameters": {"other": 1}}, ParameterError),
        ({"parameters": {"fail": True}}, RunError),
    ],
)
def test_a_record_is_checked_like_a_command(change_to, error, copied):
    notebooks, folder = copied
    change(folder / "run.json", lambda c: c.update(change_to))
    with pytest.raises(error) as caught:
        runs.verify(folder, notebooks)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_verify_of_a_chapter_trains_anew(tmp_path, monkeypatch):
    """The cache that is set is neither used nor filled."""
    what = runs.plan(parameters.find("03"), {"seeds": 2, "epochs": 2})
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    runs.run(what, tmp_path / "run")
    before = sorted((tmp_path / "cache").rglob("*"))
    assert before
    assert runs.verify(tmp_path / "run") == ([], [])
    assert sorted((tmp_path / "cache").rglob("*")) == before
    assert names(tmp_path / "run" / "figures") == [
        "fig-03-functions.svg",
        "fig-03-latents.svg",
        "fig-03-pca.svg",
        "fig-03-violins.svg",
    ]
