"""One run: made whole or not at all, found again, compared, verified."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import nbformat
import papermill
import pytest
from conftest import marked, names, tiny, told

from nestedae_utils.book import parameters, records
from nestedae_utils.data import files
from nestedae_utils.errors import ParameterError
from nestedae_utils.model import cache
from nestedae_utils.rerun import comparison, engine, execution, page, runs
from nestedae_utils.rerun.execution import RunError

FILES = "90_tiny.html 90_tiny.ipynb figures results.json run.json".split()


def planned(notebooks, **given):
    return runs.plan(parameters.find("90", notebooks), given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, write_page):
    """Return (notebooks, folder of a run) that tests only read or copy."""
    folder = tmp_path_factory.mktemp("finished")
    tiny(folder / "notebooks")
    seen = []
    what = planned(folder / "notebooks", seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write", write_page)
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


def change(path, how):
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


# --- a whole run -----------------------------------------------------------


def test_a_run_has_all_files_and_nothing_is_beside_it(finished):
    _, folder = finished
    assert names(folder) == FILES
    assert names(folder / "figures") == ["fig-tiny.svg"]
    assert names(folder.parent) == ["notebooks", "run"]
    text = (folder / "90_tiny.html").read_text()
    assert "A tiny one<" in text
    assert "{term}" not in text
    executed = nbformat.read(folder / "90_tiny.ipynb", as_version=4)
    assert executed.cells[2].metadata.tags == ["injected-parameters"]
    record = runs.read(folder).record
    assert record["given"] == record["seeds"] == {"seed": 3}
    assert record["parameters"]["noise"] == 0.0
    assert {"python", *cache.LIBRARIES} <= set(record["versions"])
    assert set(record["data"]) == set(files.registry())
    assert {"commit", "device", "started", "finished"} <= set(record)
    assert record["seconds"] > 0


def test_the_same_run_is_found_without_a_kernel(finished, monkeypatch):
    monkeypatch.setattr(execution, "execute", None)
    # a default that is given is the same run
    done = runs.run(planned(finished[0], seed=3, noise=0.0), finished[1])
    assert done.found
    assert done.results["records"][0]["value"] == 3


def test_another_run_is_replaced_only_with_force(copied):
    notebooks, folder = copied
    what, before = planned(notebooks, seed=4), (folder / "run.json").read_text()
    with pytest.raises(RunError, match=r"another run \(with seed=3\); --force"):
        runs.run(what, folder)
    with pytest.raises(RunError, match="no luck"):
        runs.run(planned(notebooks, fail=True), folder, force=True)
    assert (folder / "run.json").read_text() == before
    assert runs.run(what, folder, force=True).results["records"][0]["value"] == 4
    assert names(folder) == FILES
    assert names(folder.parent) == ["notebooks", "run"]


def test_a_changed_notebook_is_another_run(copied):
    notebooks, folder = copied
    path = notebooks / "90_tiny.ipynb"
    path.write_text(path.read_text().replace("noise / 10", "noise / 20"))
    with pytest.raises(RunError, match="version of the notebook"):
        runs.run(planned(notebooks, seed=3), folder)


@pytest.mark.parametrize(
    ("chapter", "checksums", "found"),
    [
        ("90_tiny", {}, True),
        ("90_tiny", {"psc_bandgaps_pbe/PSC_bandgaps_dataset.csv": "0"}, False),
        # a run on the twin is not that on the paper's tables, come later
        ("05_bandgap_scale", {}, False),
    ],
)
def test_changed_data_do_not_return_the_old_run(
    chapter, checksums, found, copied, monkeypatch
):
    notebooks, folder = copied
    key = "psc_bandgaps_pbe/PSC_bandgaps_dataset.csv"
    (notebooks / "90_tiny.ipynb").rename(notebooks / f"{chapter}.ipynb")
    what = runs.plan(parameters.find(chapter, notebooks), {"seed": 3})
    new = {"chapter": chapter, "checksums": checksums, "key": what.key, "data": {}}
    change(folder / "run.json", lambda record: record.update(new))
    monkeypatch.setattr(files, "present", lambda: {key: "now"})
    if found:
        assert runs.run(what, folder).found
    else:
        with pytest.raises(RunError, match=f"have changed since .{key}"):
            runs.run(what, folder)


@pytest.mark.parametrize("room", ["cli", "book/records", "model/cache"])
def test_a_changed_source_is_another_package(room, tmp_path, monkeypatch):
    """In every room, but not in this one, which makes no numbers."""
    shutil.copytree(cache.PACKAGE, tmp_path / "package")
    shutil.copytree(files.DATA, tmp_path / "data")
    monkeypatch.setattr(cache, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    digest = runs.package_digest.__wrapped__
    before = digest()
    # what lies there and no chapter reads is nothing to a result
    for place in ("data/.DS_Store", "data/mine.csv", "package/.ipynb_checkpoints/a.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("(")
    assert digest() == before
    with open(tmp_path / "data" / "ions.csv", "a") as table:
        table.write("\n")
    assert digest() != before
    before = digest()
    for name, same in (("rerun/runs", True), (room, False)):
        with open(tmp_path / "package" / f"{name}.py", "a") as source:
            source.write("# changed\n")
        assert (digest() == before) == same


# --- folders ---------------------------------------------------------------


@pytest.mark.parametrize("what", ["write_json", "read_results"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    what, notebooks, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records, what, full)
    words = r"run: cannot be written \(No space left on device\);"
    with pytest.raises(RunError, match=words):
        runs.run(planned(notebooks), tmp_path / "run")
    assert names(tmp_path) == ["notebooks"]


def test_a_page_without_room_is_one_line(notebooks, write_page):
    path = notebooks / "90_tiny.ipynb"
    path.with_suffix(".html").symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match="No space left") as failed,
        open(notebooks / "log.txt", "wb") as log,
    ):
        write_page(path, os.environ, log)
    assert failed.value.filename == str(path.with_suffix(".html"))
    assert names(notebooks) == ["90_tiny.html", "90_tiny.ipynb", "log.txt"]


def test_a_page_that_cannot_be_made_fails_its_run(notebooks, tmp_path, write_page):
    (notebooks / "90_tiny.ipynb").write_text("{")
    with (
        pytest.raises(RuntimeError, match="its page cannot be made: JSONDecodeError"),
        open(tmp_path / "log.txt", "wb") as log,
    ):
        write_page(notebooks / "90_tiny.ipynb", os.environ, log)


def test_what_a_killed_run_left_is_removed(tmp_path):
    for name in (".run.part-0123", ".run.part-ab", ".run.parted"):
        (tmp_path / name).mkdir()
    with runs.held(tmp_path / "run", "run.json") as scratch:
        left = [".run.lock", ".run.parted", scratch.name]
        assert names(tmp_path) == sorted(left)
    assert names(tmp_path) == [".run.parted"]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "", ".hidden", "a\nb", "x" * 101]
)
def test_a_figures_name_cannot_leave_the_folder(name, tmp_path):
    tiny(tmp_path / "notebooks", figure=name)
    assert "figure name" in told(planned, tmp_path / "notebooks")


# --- failures --------------------------------------------------------------


def test_a_cell_that_fails(notebooks, tmp_path):
    failed = tmp_path / "run.failed"
    for _ in range(2):
        with pytest.raises(RunError) as caught:
            runs.run(planned(notebooks, fail=True), tmp_path / "run")
        assert str(caught.value) == (
            "90_tiny: cell 3 of 6: RuntimeError: no luck; the executed "
            f"notebook is {failed / '90_tiny.ipynb'}"
        )
        assert names(tmp_path) == ["notebooks", "run.failed"]
        assert names(failed) == ["90_tiny.ipynb", "log.txt", "run.json"]
    assert "no luck" in (failed / "90_tiny.ipynb").read_text()
    assert runs.failure(tmp_path / "run").startswith("cell 3 of 6")
    assert "this run failed" in told(runs.read, failed)


def test_what_is_the_users_stays(notebooks, tmp_path):
    (tmp_path / "run.failed").mkdir()
    (tmp_path / "run.failed" / "thesis.tex").touch()
    with pytest.raises(RunError, match="no luck"):
        runs.run(planned(notebooks, fail=True), tmp_path / "run")
    assert names(tmp_path / "run.failed") == ["thesis.tex"]
    assert len(names(tmp_path)) == 3


def test_a_chapter_without_results(notebooks, tmp_path):
    path = notebooks / "90_tiny.ipynb"
    path.write_text(path.read_text().replace("90_tiny.json", "91.json"))
    with pytest.raises(RunError, match="wrote no results"):
        runs.run(planned(notebooks), tmp_path / "run")
    assert names(tmp_path) == ["notebooks", "run.failed"]


def test_a_kernel_that_is_killed_is_noticed_at_once(notebooks, tmp_path, monkeypatch):
    """No cell has a time limit, so that nothing else would end this one."""
    monkeypatch.setenv("TEST_MARK", f"mark-{tmp_path}")
    killed = []

    def kill(cell, of):
        if cell == 4:
            command = {p: p.cmdline() for p in marked(f"mark-{tmp_path}")}
            kernels = [p for p in command if "ipykernel_launcher" in command[p]]
            time.sleep(1)
            killed.append(time.perf_counter())
            kernels[0].kill()

    with pytest.raises(RunError, match="cell 4 of 6: the kernel died"):
        runs.run(planned(notebooks, wait=900.0), tmp_path / "run", report=kill)
    assert time.perf_counter() - killed[0] < 60
    assert names(tmp_path) == ["notebooks", "run.failed"]
    assert json.loads((tmp_path / "run.failed/run.json").read_text())["killed"]


def test_stopping_ends_the_kernel_and_its_workers(notebooks, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_MARK", f"mark-{tmp_path}")

    def others():
        return [m for m in marked(f"mark-{tmp_path}") if m.pid != os.getpid()]

    what = planned(notebooks, workers=2)
    # a reaper, a kernel and two of joblib's workers
    with pytest.raises(execution.Stopped):
        runs.make(what, tmp_path / "run", stop=lambda: len(others()) >= 4)
    assert others() == []
    assert threading.active_count() < 9


# --- runs that are there ---------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", "", "not the record of a run"),
        ("run.json", "[]", "not the record of a run"),
        ("run.json", '{"chapter": 3}', "not the record of a run"),
        ("results.json", "", "not a chapter's results"),
        ("results.json", None, "not found"),
        ("run.json", None, "no run there"),
    ],
)
def test_a_damaged_run(file, content, words, copied):
    path = copied[1] / file
    path.unlink() if content is None else path.write_text(content)
    assert words in told(runs.read, copied[1])


def test_compare(copied):
    _, folder = copied
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    change(other / "results.json", lambda c: c["records"][0].update(value=5))
    change(other / "run.json", lambda c: c["parameters"].update(seed=5))
    settings, results = comparison.compare([folder, other])
    assert settings.index.tolist() == ["seed"]
    assert settings.loc["seed"].tolist() == [3, 5]
    assert results.loc["fig2_clean_single_test"].tolist() == [3, 5, 2]


def test_verify(copied):
    notebooks, folder = copied
    assert comparison.verify(folder, notebooks) == ([], [])
    change(folder / "results.json", lambda c: c["records"][0].update(value=5))

    def older(record):
        record["versions"]["torch"] = "1.0"
        record["checksums"]["x/y.csv"] = "0123456789abcdef"
        record["package"]["digest"] = "0"
        record["notebook"] = "0"

    change(folder / "run.json", older)
    differences, changes = comparison.verify(folder, notebooks)
    (line,) = differences
    assert line.startswith("fig2_clean_single_test: 3 now, 5 in the reference")
    torch = changes.pop(1)
    assert re.fullmatch(r"version of torch: \S+ now, 1\.0 recorded", torch)
    assert changes == [
        "data x/y.csv: sha256 none now, 0123456789ab recorded",
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
    assert told(comparison.verify, folder, notebooks, error=error)


@pytest.mark.slow
def test_verify_of_a_chapter_trains_anew(tmp_path, monkeypatch):
    """The cache that is set is neither used nor filled."""
    what = runs.plan(parameters.find("03"), {"seeds": 2, "epochs": 2})
    monkeypatch.setenv("NESTEDAE_CACHE", str(tmp_path / "cache"))
    runs.run(what, tmp_path / "run")
    before = sorted((tmp_path / "cache").rglob("*"))
    assert before
    assert comparison.verify(tmp_path / "run", parameters.NOTEBOOKS) == ([], [])
    assert sorted((tmp_path / "cache").rglob("*")) == before
    assert len(names(tmp_path / "run" / "figures")) == 5


# --- papermill alone -------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    """Register the engine as an installed package's entry point does."""
    engines = papermill.engines.papermill_engines._engines
    monkeypatch.setitem(engines, "nestedae", engine.Engine)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sed": 1}, "sed: unknown parameter of chapter 90_tiny"),
        ({"seed": 1.5}, "seed: 1.5 given, a whole number from 0"),
        ({"seed": -1}, "seed: -1 given, a whole number from 0"),
        ({"fail": "false"}, "fail: 'false' given, true or false is allowed"),
    ],
)
def test_papermill_refuses_nonsense_before_it_starts(
    given, words, registered, notebooks, tmp_path
):
    with pytest.raises(ParameterError, match=words):
        papermill.execute_notebook(
            *(notebooks / "90_tiny.ipynb", tmp_path / "out.ipynb", given),
            engine_name="nestedae",
        )
    assert names(tmp_path) == ["notebooks"]


def test_papermills_command_says_it_in_a_line(notebooks, tmp_path):
    """And executes what is allowed."""
    code = (
        "import papermill, sys; from papermill.cli import papermill as main;"
        "from nestedae_utils.rerun.engine import Engine;"
        "papermill.engines.papermill_engines.register('nestedae', Engine);"
        "main()"
    )
    words = ["--engine", "nestedae", "--no-progress-bar"]
    words += [notebooks / "90_tiny.ipynb", tmp_path / "out.ipynb"]
    for more, status in ((["-p", "epochs", "3"], 2), (["-p", "seed", "3"], 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, *more],
            env={**os.environ, "NESTEDAE_RESULTS": str(tmp_path / "results")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert (tmp_path / "out.ipynb").exists() == (not status)
        if status:
            assert "Error: epochs: unknown parameter of" in done.stderr
    content = json.loads((tmp_path / "results/90_tiny.json").read_text())
    assert content["records"][0]["value"] == 3
