"""The command nestedae: what it says, and its exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, marked, names, process

from nestedae_utils import cli
from nestedae_utils.book import parameters, progress
from nestedae_utils.data import solvents
from nestedae_utils.model import training
from nestedae_utils.rerun import execution, runs, shell, sweeps


@pytest.fixture
def nestedae(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")

    def call(words, notebooks=parameters.NOTEBOOKS):
        status = cli.main(words.split(), notebooks)
        return status, *capsys.readouterr()

    return call


# --- what is refused -------------------------------------------------------

REFUSED = [
    # the command line
    ("", 2, "Missing command"),
    ("rerun 05", 2, "No such command 'rerun'. Did you mean 'run'? See"),
    ("run 05 --forse", 2, "No such option '--forse'. Did you mean '--force'?"),
    ("run", 2, "Missing argument 'CHAPTER'. See nestedae run --help."),
    ("run 05 06", 2, "'06' given, name=value is allowed"),
    ("run 05 -p epochs 300", 2, "'epochs' given, name=value is allowed"),
    ("run 05 -p", 2, "requires an argument"),
    ("verify", 2, "Missing argument 'RUN'"),
    ("sweep 03 --grid seeds=1 --jobs 0", 2, "1<=x<=64"),
    ("sweep 03 --grid seeds=1 --dask tcp://a:1 --jobs 2", 2, "both given"),
    ("sweep 03 --grid seeds=1 --dask here", 2, "dask: 'here' given"),
    # a chapter
    ("run 99", 2, "chapter: '99' given, one of 01_autoencoders, "),
    ("params ../x", 2, "chapter: '../x' given"),
    # a parameter
    ("run 05 -p epoch=3", 2, "Did you mean 'epochs'?"),
    ("run 05 -p lr=1e-4", 2, "Did you mean 'learning_rate'?"),
    ("run 05 -p epochs", 2, "'epochs' given, name=value is allowed"),
    ("run 05 -p epochs=3 -p epochs=4", 2, "epochs: given twice"),
    ("run 05 -p epochs=1.5", 2, "epochs: '1.5' given, a whole number from 1"),
    ("run 05 -p epochs=0", 2, "epochs: 0 given"),
    ("run 05 -p l1=1e999", 2, "l1: inf given"),
    (f"run 05 -p epochs={'9' * 5000}", 2, "5000 characters given"),
    (f"run 05 -p {'x' * 5000}=1", 2, "unknown parameter"),
    ("run 05 -p latent_sizes=2,2", 2, "only once"),
    ("run 04 -p data_source=twins", 2, "Did you mean 'twin'?"),
    ("run 05 -p device=gpu", 2, "device: 'gpu' given"),
    ("run 05 -p device=cuda:99", 2, "'cuda:99'"),
    # a grid
    ("sweep 03", 2, "grid: nothing given"),
    ("sweep 03 --grid seeds=", 2, "'seeds=' given"),
    ("sweep 03 --grid seeds=1,,2", 2, "an empty value"),
    ("sweep 03 --grid seeds=1 seeds=2", 2, "seeds: given twice"),
    ("sweep 03 --grid noise=0,0.0", 2, "only once"),
    ("sweep 03 --grid seeds=1..3,2", 2, "only once"),
    ("sweep 03 --grid seeds=9..1", 2, "run backwards"),
    ("sweep 03 --grid seeds=1..", 2, "'1..' given"),
    ("sweep 03 --grid noise=0..1", 2, "noise: '0..1'"),
    ("sweep 03 --grid seeds=0..3", 2, "seeds: 0 given"),
    ("sweep 01 --grid seed=0..99999999999", 2, "at most 10000"),
    ("sweep 01 --grid seed=0..999 rows=10..99", 2, "more than 10000"),
    ("sweep 05 --grid seed=0..9", 2, "mean 'seeds'?"),
    ("sweep 03 --grid seeds=1 -p seeds=2", 2, "given twice, in the grid and"),
    # a folder
    ("run 01 -o file", 1, "file: not a folder"),
    ("run 01 -o file/run", 1, "file/run: cannot be written (File exists)"),
    ("run 01 -o file --force", 1, "file: not a folder"),
    ("run 01 -o mine", 1, "mine: not empty, and holds no run"),
    ("run 01 -o mine --force", 1, "mine: not empty, and holds no run"),
    ("run 01 -o /proc/x", 1, "/proc/x: cannot be written ("),
    ("run 01 -o /proc/x/run --force", 1, "/proc/x/run: cannot be written ("),
    ("sweep 01 --grid seed=1 -o file", 1, "not a folder"),
    ("sweep 01 --grid seed=1 -o file/s", 1, "Finished runs are kept."),
    ("sweep 01 --grid seed=1 -o mine", 1, "holds no sweep"),
    ("compare mine", 2, "runs: 1 given, at least 2"),
    ("compare a b", 1, "a: no run there"),
    ("verify mine", 1, "mine: no run there"),
    ("verify file", 1, "file: no run there"),
    # a scheduler
    ("sweep 01 --grid seed=1 --dask tcp://127.0.0.1:9 -o new", 1, "no scheduler"),
    # one's own data
    ("fit", 2, "Missing argument 'FILE.yml'"),
    ("fit nowhere.yml", 1, "nowhere.yml: no such file"),
    ("fit wrong.yml", 1, "wrong.yml, line 1"),
    ("fit wrong.yml --by rows", 2, "'rows' is not one of"),
    ("fit wrong.yml --device gpu", 2, "device: 'gpu' given"),
    ("predict wrong.yml new.csv", 1, "wrong.yml: "),
    ("predict nowhere.nestedae new.csv", 1, "nowhere.nestedae: no such file"),
]


@pytest.mark.parametrize(
    ("words", "status", "message"), REFUSED, ids=lambda value: str(value)[:40]
)
def test_a_refusal_is_one_line_and_makes_nothing(
    words, status, message, nestedae, tmp_path, monkeypatch
):
    monkeypatch.setattr(execution, "execute", None)
    monkeypatch.setattr(sweeps, "PATIENCE", 1)
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "wrong.yml").write_text("latents: 1\n")
    before = sorted(tmp_path.rglob("*"))
    found, out, err = nestedae(words)
    assert (found, out) == (status, "")
    (line,) = err.splitlines()
    assert line.startswith("nestedae: ")
    assert message in line
    assert len(line) < 600
    assert sorted(tmp_path.rglob("*")) == before


# --- list and params -------------------------------------------------------


def test_list_has_every_chapter(nestedae):
    status, out, err = nestedae("list")
    assert (status, err) == (0, "")
    for name in parameters.chapters():
        assert f"{name}  " in out
    assert "reproduces Fig. 2 of the paper" in out
    times = pd.read_csv(ROOT / "data/times.csv")
    of_one = times[times["chapter"] == "08_audit"]
    words = f"{of_one['seconds_low'].min()} to {of_one['seconds_high'].max()} seconds"
    count = of_one["replica_steps"].iloc[0]
    steps = f"It trains {count / 1e6:.2g} million replica-steps."
    assert words in " ".join(out.split())
    assert steps in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 79


@pytest.mark.parametrize("name", parameters.chapters())
def test_params_has_every_parameter(name, nestedae):
    status, out, err = nestedae(f"params {name[:2]}")
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["name", "type", "default", "allowed", "meaning"]
    known = parameters.find(name).parameters.values()
    for row, one in zip(rows, known, strict=True):
        default = parameters.written(one.default)
        assert row.split()[:3] == [one.name, one.kind.__name__, default]
        assert row.endswith(one.help)


@pytest.mark.parametrize("words", ["--help", "list", "params 05"])
def test_what_only_tells_loads_nothing_heavy(words):
    code = (
        "import sys; from nestedae_utils.cli import main;"
        "status = main(sys.argv[1:]);"
        "heavy = {'torch', 'pandas', 'papermill', 'sklearn'};"
        "sys.exit(status or str(heavy & set(sys.modules) or ''))"
    )
    command = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(command, capture_output=True, cwd=ROOT)
    assert done.stderr.strip() == b""


def test_the_entry_points_are_declared():
    text = (ROOT / "pyproject.toml").read_text()
    for name in ("cli:main", "rerun.engine:Engine"):
        name = f"nestedae_utils.{name}"
        assert f'\nnestedae = "{name}"' in text
        assert callable(metadata.EntryPoint("nestedae", name, "").load())


# --- run -------------------------------------------------------------------


def test_run_and_again(nestedae, notebooks):
    """By any name of a folder, or by a link to it, which stays."""
    Path("x").mkdir()
    Path("x{a}").symlink_to("x")
    words = "run 90 -p seed=2 -p noise=1e-1 -o x{a}"
    status, out, err = nestedae(words, notebooks)
    assert status == 0
    assert out.startswith("x: finished in ")
    assert [line.split(",")[0] for line in err.splitlines()] == [
        f"cell {n} of 6" for n in range(1, 7)
    ]
    status, out, err = nestedae(words, notebooks)
    assert (status, err) == (0, "")
    assert out.startswith("x: this run is there, finished ")
    assert Path("x{a}").is_symlink()
    status, out, err = nestedae("run 90 -p seed=2 -o x", notebooks)
    assert (status, out) == (1, "")
    assert "x: holds another run (with noise=0.1)" in err
    # papermill puts values in for names in braces
    assert nestedae("run 90 -o {seed}", notebooks)[0] == 0
    assert Path("{seed}", "run.json").is_file()


def test_a_run_without_a_folder_has_one_by_its_key(nestedae, notebooks):
    status, out, _ = nestedae("run 90", notebooks)
    assert status == 0
    (folder,) = Path("runs/90_tiny").glob("[!.]*")
    assert out.startswith(f"{folder}: finished")
    assert runs.read(folder).record["key"].startswith(folder.name)


def test_a_failure_is_one_line_after_the_progress(nestedae, notebooks):
    status, out, err = nestedae("run 90 -p fail=true -o x", notebooks)
    assert (status, out) == (1, "")
    *progress, line = err.splitlines()
    assert all(one.startswith("cell ") for one in progress)
    assert line.startswith("nestedae: 90_tiny: cell 3 of 6: RuntimeError: ")
    assert Path(line.rpartition(" is ")[2]).is_file()


def test_verify_and_compare(nestedae, notebooks):
    for seed in (1, 4):
        assert nestedae(f"run 90 -p seed={seed} -o {seed}", notebooks)[0] == 0
    status, out, err = nestedae("compare 1 1 4")
    assert (status, err) == (0, "")
    assert out.splitlines()[:2] == ["A: 1", "B: 4"]
    assert "B - A" in out
    assert out.splitlines()[-1].split() == ["fig2_clean_single_test", "1", "4", "3"]
    status, out, err = nestedae("verify 1", notebooks)
    assert (status, out) == (0, "1: all results agree\n")
    path = Path("1/results.json")
    path.write_text(path.read_text().replace('"value": 1', '"value": 9'))
    status, out, err = nestedae("verify 1", notebooks)
    assert (status, out) == (1, "")
    assert "nestedae: fig2_clean_single_test: 1 now, 9" in err


def test_two_at_once_the_second_is_refused(notebooks, tmp_path):
    words = f"run 90 -p wait=5 -o {tmp_path / 'x'}"
    first = process(notebooks, words)
    while not list(tmp_path.glob(".x.part-*")):
        time.sleep(0.02)
    second = process(notebooks, words)
    first.send_signal(signal.SIGSTOP)
    _, err = second.communicate(timeout=300)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    (line,) = err.splitlines()
    assert "x: another run is being made there" in line
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, err
    assert names(tmp_path) == ["notebooks", "x"]


# --- its end ---------------------------------------------------------------


@pytest.fixture
def at_work(notebooks, tmp_path):
    """Return the command when its kernels' workers work, and their mark."""

    def start(words, processes):
        mark = f"mark-{tmp_path}"
        words = f"{words} -p workers=2 -o {tmp_path / 'x'}"
        environment = os.environ | {"TEST_MARK": mark}
        command = process(notebooks, words, env=environment)
        while len(marked(mark)) < processes:
            assert command.poll() is None
            time.sleep(0.1)
        return command, mark

    return start


# the command; for each run a reaper, a kernel, and two of joblib's workers
WORK = [("run 90", 5), ("sweep 90 --grid seed=0..3 --jobs 2", 9)]


@pytest.mark.parametrize(("words", "processes"), WORK)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(words, processes, number, at_work, tmp_path):
    command, mark = at_work(words, processes)
    command.send_signal(number)
    _, err = command.communicate(timeout=300)
    assert command.returncode == 128 + number
    last = err.splitlines()[-1]
    assert last.startswith(f"nestedae: stopped by {number.name}")
    assert "Traceback" not in err
    assert marked(mark) == []
    # nothing of a run, but the folders of a sweep
    left = sorted(path.name for path in tmp_path.rglob("*"))
    swept = ["runs", "sweep.json", "x"] if "sweep" in words else []
    assert left == ["90_tiny.ipynb", "notebooks", *swept]


def test_a_command_that_is_killed_leaves_no_process(at_work, tmp_path):
    """Nothing can clean up after SIGKILL but what it started."""
    command, mark = at_work("run 90", 5)
    command.kill()
    command.communicate()
    for _ in range(3000):
        left = {path.name for path in tmp_path.iterdir()}
        if not marked(mark) and not any(".part-" in name for name in left):
            break
        time.sleep(0.1)
    assert marked(mark) == []
    assert left <= {"notebooks", ".x.lock"}


def test_the_kernel_is_this_python_in_a_bare_environment(notebooks, tmp_path):
    """No PATH, no HOME of a user, and a foreign kernel of the same name."""
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "x", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    bare = {"JUPYTER_PATH": str(tmp_path / "jupyter"), "PYTHONPATH": str(ROOT)}
    bare["NESTEDAE_CACHE"] = str(tmp_path / "cache")
    # what a user has set up for other work
    start = tmp_path / "ipython" / "profile_default" / "startup" / "00.py"
    start.parent.mkdir(parents=True)
    start.write_text("DEBUG = True")
    bare |= {"IPYTHONDIR": str(tmp_path / "ipython"), "MPLBACKEND": "Agg"}
    bare |= {"PYTHONSTARTUP": str(start), "JPY_SESSION_NAME": "x"}
    words = f"run 90 -o {tmp_path / 'x'}"
    command = process(notebooks, words, env=bare, cwd=tmp_path)
    _, err = command.communicate(timeout=300)
    assert command.returncode == 0, err
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    assert Path(results["python"]).samefile(sys.executable)
    assert names(tmp_path / "x" / "figures") == ["fig-tiny.svg"]


@pytest.mark.parametrize("end", ["list | true", "list >&-", "list 2>&-", "x >&- 2>&-"])
def test_a_reader_that_stops_reading_or_is_not_there(end):
    line = f"'{sys.executable}' -m nestedae_utils {end}"
    done = subprocess.run(line, shell=True, capture_output=True, cwd=ROOT)
    assert b"Traceback" not in done.stderr
    assert done.returncode == (2 if end[0] == "x" else 0)


def test_news_that_nobody_reads_stop_nothing(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stderr", stream := os.fdopen(writing, "w"))
    shell.tell("1 of 2: finished")
    with pytest.raises(BrokenPipeError):
        stream.close()
    monkeypatch.undo()
    monkeypatch.setenv("TERM", "dumb")
    with shell.shell() as settings:
        assert settings["color"] is False


# --- sweep -----------------------------------------------------------------


def test_sweep_and_again(nestedae, notebooks):
    """Axes follow --grid, or each has its own."""
    words = "sweep 90 {} -o s --jobs 2"
    first = words.format("--grid fail=false,true noise=0,1")
    status, out, err = nestedae(first, notebooks)
    assert (status, out) == (1, "s: 2 of 4 runs finished\n")
    progress, failures = err.splitlines()[:4], err.splitlines()[4:]
    assert "of 4: fail=false noise=1.0: finished" in "".join(progress)
    words_of_one = "fail=true noise=0.0: 90_tiny: cell 3 of 6: RuntimeError: "
    assert failures[0].startswith(f"nestedae: {words_of_one}")
    again = words.format("fail=false,true --grid noise=0,1")
    status, out, err = nestedae(again, notebooks)
    assert (status, out) == (1, "s: 2 of 4 runs finished\n")
    first, *failures = err.splitlines()
    assert first == "4 of 4 runs are there already"
    assert all(line.endswith("(--retry runs it anew)") for line in failures)


# --- one's own data --------------------------------------------------------


@pytest.fixture
def declared(tmp_path):
    """Write a declaration that fits at once, and its two tables."""
    path = solvents.load("twin").write(tmp_path)
    text = path.read_text(encoding="utf-8")
    for name, slow, fast in (("epochs", 300, 2), ("seeds", 5, 1), ("folds", 5, 2)):
        assert f"{name}: {slow}" in text
        text = text.replace(f"{name}: {slow}", f"{name}: {fast}")
    path.write_text(text, encoding="utf-8")
    return path


def test_fit_and_predict(nestedae, declared, tmp_path, monkeypatch):
    title, bars = declared.stem, []
    model = f"{title}/{title}.nestedae"
    monkeypatch.setattr(training, "watch", None)
    monkeypatch.setattr(
        progress, "bar", lambda name, _: bars.append(name) or nullcontext(lambda: None)
    )
    status, out, err = nestedae(f"fit {declared.name}")
    assert (status, err) == (0, "")
    assert set(bars) == {"gap", "binding"}, "a bar for each scale's trainings"
    assert "nested autoencoder" in out
    endings = (".nestedae", "_held_out.csv", "_report.csv")
    assert names(tmp_path / title) == [f"{title}{ending}" for ending in endings]
    before = Path(model).read_bytes()
    status, out, err = nestedae(f"fit {declared.name}")
    assert (status, out) == (1, "")
    assert "a model is there" in err
    assert Path(model).read_bytes() == before
    Path(model).unlink()
    status, out, err = nestedae(f"fit {declared.name}")
    assert (status, out) == (1, "")
    assert "_report.csv: is there already; choose another folder" in err
    assert nestedae(f"fit {declared.name} --force")[0] == 0

    status, out, err = nestedae(f"predict {model} binding.csv")
    assert (status, err) == (0, "")
    rows = (tmp_path / "binding.csv").read_text().splitlines()
    assert out.splitlines()[0] == f"{rows[0]},energy_predicted,energy_spread"
    assert len(out.splitlines()) == len(rows)
    status, line, _ = nestedae(f"predict {model} binding.csv -o p.csv")
    assert (status, line) == (0, "p.csv\n")
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == out

    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        status, _, err = nestedae(f"predict {model} binding.csv")
        assert (status, "stdout is closed" in err) == (2, True)

    for words, status, message in (
        ("new.csv", 1, "new.csv"),
        ("gaps.csv", 1, "gaps.csv, column 'SOLVENT'"),
        ("binding.csv -o binding.csv", 2, "another file than the input"),
        ("binding.csv --scale top", 2, "'top'"),
    ):
        found, out, err = nestedae(f"predict {model} {words}")
        assert (found, out, err.count("\n")) == (status, "", 1)
        assert message in err
    assert (tmp_path / "binding.csv").read_text().splitlines() == rows
