"""The command nestedae: what it says, and its exit statuses."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT, marked

from nestedae_utils import cli
from nestedae_utils.book import parameters
from nestedae_utils.chapters import solvents
from nestedae_utils.rerun import runs, sweeps

START = (
    "import sys; from pathlib import Path;"
    "from nestedae_utils.cli import main;"
    "sys.exit(main(sys.argv[2:], Path(sys.argv[1])))"
)


@pytest.fixture
def nestedae(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")

    def call(*words, notebooks=parameters.NOTEBOOKS):
        status = cli.main(words, notebooks)
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def no_kernel(monkeypatch):
    def never(*_, **__):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(runs, "execute", never)


def process(notebooks, *words, **settings):
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", START, notebooks, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


# --- what is not allowed ---------------------------------------------------

BAD = {
    "no command": ("", "Missing command"),
    "unknown command": ("rerun 05", "No such command 'rerun'"),
    "unknown option": ("run 05 --forse", "No such option '--forse'"),
    "no chapter": ("run", "Missing argument 'CHAPTER'"),
    "chapter that is not there": ("run 99", "chapter: '99' given"),
    "chapter of letters": ("params five", "chapter: 'five' given"),
    "chapter that leaves the folder": ("run ../x", "chapter: '../x' given"),
    "absolute chapter": ("run /etc/passwd", "chapter: '/etc/passwd' given"),
    "two chapters": ("run 05 06", "unexpected extra argument"),
    "unknown": ("run 05 -p epoch=3", "Did you mean 'epochs'?"),
    "short for a name": ("run 05 -p lr=1e-4", "mean 'learning_rate'?"),
    "no value": ("run 05 -p epochs", "'epochs' given, name=value"),
    "empty value": ("run 05 -p epochs=", "'epochs=' given, name=value"),
    "no name": ("run 05 -p =3", "'=3' given, name=value"),
    "option without a word": ("run 05 -p", "requires an argument"),
    "text for a number": ("run 05 -p epochs=ten", "epochs: 'ten' given"),
    "fraction for a whole": ("run 05 -p epochs=1.5", "epochs: '1.5' given"),
    "false for a number": ("run 05 -p epochs=false", "epochs: 'false' given"),
    "true for a rate": ("run 05 -p learning_rate=true", "'true' given"),
    "list for a number": ("run 05 -p epochs=[1,2]", "epochs: '[1,2]' given"),
    "python": ("run 05 -p epochs=len('x')", "epochs: \"len('x')\" given"),
    "too small": ("run 05 -p epochs=0", "epochs: 0 given"),
    "too large": ("run 05 -p epochs=100001", "epochs: 100001 given"),
    "negative": ("run 05 -p learning_rate=-1", "learning_rate: -1.0 given"),
    "not a number": ("run 05 -p learning_rate=nan", "learning_rate: nan"),
    "infinite": ("run 05 -p l1=inf", "l1: inf given"),
    "beyond all floats": ("run 05 -p l1=1e999", "l1: inf given"),
    "huge": (f"run 05 -p epochs={'9' * 5000}", "5000 characters given"),
    "unknown and huge": (f"run 05 -p {'x' * 5000}=1", "unknown parameter"),
    "list of another kind": ("run 05 -p latent_sizes=[2,4]", "'[2,4]' given"),
    "list with a fault": ("run 05 -p latent_sizes=2,,4", "'2,,4' given"),
    "list with a double": ("run 05 -p latent_sizes=2,2", "only once"),
    "choice": ("run 04 -p data_source=twins", "Did you mean 'twin'?"),
    "device": ("run 05 -p device=gpu", "device: 'gpu' given"),
    "device of another machine": ("run 05 -p device=cuda:99", "'cuda:99'"),
    "twice": ("run 05 -p epochs=3 -p epochs=4", "epochs: given twice"),
    "sweep without a grid": ("sweep 03", "grid: nothing given"),
    "grid without values": ("sweep 03 --grid seeds=", "'seeds=' given"),
    "grid of commas": ("sweep 03 --grid seeds=1,,2", "an empty value"),
    "grid that ends early": ("sweep 03 --grid seeds=1,", "an empty value"),
    "grid twice": ("sweep 03 --grid seeds=1 seeds=2", "seeds: given twice"),
    "value twice": ("sweep 03 --grid noise=0,0.0", "only once"),
    "value in a range too": ("sweep 03 --grid seeds=1..3,2", "only once"),
    "backward range": ("sweep 03 --grid seeds=9..1", "run backwards"),
    "open range": ("sweep 03 --grid seeds=1..", "'1..' given"),
    "range of fractions": ("sweep 03 --grid noise=0..1", "noise: '0..1'"),
    "range beyond the rule": ("sweep 03 --grid seeds=0..3", "seeds: 0 given"),
    "huge range": ("sweep 01 --grid seed=0..99999999999", "at most 10000"),
    "huge grid": (
        "sweep 01 --grid seed=0..999 rows=10..99",
        "more than 10000 combinations",
    ),
    "grid of an unknown": ("sweep 05 --grid seed=0..9", "mean 'seeds'?"),
    "grid and fixed": ("sweep 03 --grid seeds=1 -p seeds=2", "given twice"),
    "no address": ("sweep 03 --grid seeds=1 --dask here", "dask: 'here'"),
    "jobs and dask": (
        "sweep 03 --grid seeds=1 --dask tcp://a:1 --jobs 2",
        "both given",
    ),
    "no jobs": ("sweep 03 --grid seeds=1 --jobs 0", "1<=x<=64"),
    "one run to compare": ("compare x", "runs: 1 given"),
    "no run to verify": ("verify", "Missing argument 'RUN'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(
    case, nestedae, no_kernel, tmp_path
):
    words, message = BAD[case]
    status, out, err = nestedae(*words.split())
    assert status == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("nestedae: ")
    assert message in line
    assert len(line) < 600
    assert list(tmp_path.iterdir()) == [], "nothing is made"


REFUSED = {
    "file for a folder": ("run 01 -o file", "not a folder"),
    "folder below a file": ("run 01 -o file/run", "cannot be written"),
    "folder that cannot be made": ("run 01 -o /proc/x/y", "cannot be written"),
    "folder of others": ("run 01 -o mine", "holds no run"),
    "folder of others, forced": ("run 01 -o mine --force", "holds no run"),
    "sweep into a file": ("sweep 01 --grid seed=1 -o file", "not a folder"),
    "sweep below a file": ("sweep 01 --grid seed=1 -o file/s", "be written"),
    "sweep into a folder of others": (
        "sweep 01 --grid seed=1 -o mine",
        "holds no sweep",
    ),
    "runs that are not there": ("compare a b", "a: no run there"),
    "run that is not there": ("verify mine", "mine: no run there"),
    "run that is a file": ("verify file", "file"),
    "scheduler that is not there": (
        "sweep 01 --grid seed=1 --dask tcp://127.0.0.1:9 -o new",
        "no scheduler answers at tcp://127.0.0.1:9",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_one_line_and_status_1(
    case, nestedae, no_kernel, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweeps, "PATIENCE", 1)
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    words, message = REFUSED[case]
    status, out, err = nestedae(*words.split())
    assert status == 1
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("nestedae: ")
    assert message in line
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "file",
        "mine",
        "thesis.tex",
    ]


# --- list and params -------------------------------------------------------


def test_list_has_every_chapter(nestedae):
    status, out, err = nestedae("list")
    assert (status, err) == (0, "")
    for name in parameters.chapters():
        assert f"{name}  " in out
    assert "reproduces Fig. 2 of the paper" in out
    kept = json.loads((ROOT / "data/reference/08_audit.json").read_text())
    said = f"The reference run took {kept['seconds']:g} s."
    assert said in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 79


@pytest.mark.parametrize("name", parameters.chapters())
def test_params_has_every_parameter(name, nestedae):
    status, out, err = nestedae("params", name[:2])
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["name", "type", "default", "allowed", "meaning"]
    known = parameters.find(name).parameters
    assert len(rows) == len(known)
    for row, one in zip(rows, known.values(), strict=True):
        words = row.split()
        assert words[:2] == [one.name, one.kind.__name__]
        assert words[2] == parameters.written(one.default)
        assert one.rule.allowed in row
        assert row.endswith(one.help)


@pytest.mark.parametrize("words", ["--help", "list", "params 05"])
def test_what_only_tells_loads_nothing_heavy(words):
    code = (
        "import sys; from nestedae_utils.cli import main;"
        "status = main(sys.argv[1:]);"
        "heavy = {'torch', 'pandas', 'papermill', 'sklearn'};"
        "sys.exit(status or str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stderr.strip() == ""


def test_the_command_is_installed_under_its_name():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'nestedae = "nestedae_utils.cli:main"' in text
    with contextlib.suppress(metadata.PackageNotFoundError):
        points = metadata.distribution("nestedae-companion").entry_points
        assert points["nestedae"].load() is cli.main


# --- run -------------------------------------------------------------------


def test_run_and_again(nestedae, notebooks):
    words = ["run", "90", "-p", "seed=2", "-p", "noise=1e-1", "-o", "x"]
    status, out, err = nestedae(*words, notebooks=notebooks)
    assert status == 0
    assert out.startswith("x: finished in ")
    assert [line.split(",")[0] for line in err.splitlines()] == [
        f"cell {n} of 6" for n in range(1, 7)
    ]
    status, out, err = nestedae(*words, notebooks=notebooks)
    assert (status, err) == (0, "")
    assert out.startswith("x: this run is there, finished ")
    status, out, err = nestedae(*words, "--force", notebooks=notebooks)
    assert (status, out[:11]) == (0, "x: finished")
    status, out, err = nestedae(*words[:4], "-o", "x", notebooks=notebooks)
    assert (status, out) == (1, "")
    assert "x: holds another run (with noise=0.1)" in err


def test_a_run_without_a_folder_has_one_by_its_key(nestedae, notebooks):
    status, out, _ = nestedae("run", "90", notebooks=notebooks)
    assert status == 0
    (folder,) = Path("runs/90_tiny").glob("[!.]*")
    assert out.startswith(f"{folder}: finished")
    assert runs.read(folder).record["key"].startswith(folder.name)


def test_a_failure_is_one_line_after_the_progress(nestedae, notebooks):
    status, out, err = nestedae(
        "run", "90", "-p", "fail=true", "-o", "x", notebooks=notebooks
    )
    assert (status, out) == (1, "")
    *progress, line = err.splitlines()
    assert all(one.startswith("cell ") for one in progress)
    assert line.startswith("nestedae: 90_tiny: cell 3 of 6: RuntimeError: ")
    assert Path(line.rpartition(" is ")[2]).is_file()


def test_verify_and_compare(nestedae, notebooks):
    for seed in (1, 4):
        words = ["-p", f"seed={seed}", "-o", str(seed)]
        assert not nestedae("run", "90", *words, notebooks=notebooks)[0]
    status, out, err = nestedae("compare", "1", "4")
    assert (status, err) == (0, "")
    assert out.splitlines()[:2] == ["A: 1", "B: 4"]
    assert "B - A" in out
    assert out.splitlines()[-1].split()[-1] == "3"
    status, out, err = nestedae("compare", "1", "1", "4")
    assert (status, err) == (0, "")
    status, out, err = nestedae("verify", "1", notebooks=notebooks)
    assert (status, out) == (0, "1: all results agree\n")
    path = Path("1/results.json")
    path.write_text(path.read_text().replace('"value": 1', '"value": 9'))
    status, out, err = nestedae("verify", "1", notebooks=notebooks)
    assert (status, out) == (1, "")
    assert "nestedae: fig2_clean_single_test: 1 now, 9" in err


def test_two_at_once_the_second_is_refused(notebooks, tmp_path):
    words = ["run", "90", "-p", "wait=3", "-o", tmp_path / "x"]
    first = process(notebooks, *words)
    while not (tmp_path / ".x.lock").exists():
        time.sleep(0.02)
    second = process(notebooks, *words)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    (line,) = err.splitlines()
    assert "x: another run is being made there" in line
    out, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["notebooks", "x"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_signal_leaves_nothing(command, number, notebooks, tmp_path):
    mark = f"mark-{tmp_path}"
    words = ["-p", "workers=2", "-o", tmp_path / "x"]
    if command == "sweep":
        words += ["--grid", "seed=0..3", "--jobs", "2"]
    started = process(
        notebooks, command, "90", *words, env=os.environ | {"TEST_MARK": mark}
    )
    # itself; for each run an execution, a kernel, and joblib's workers
    wanted = 5 if command == "run" else 9
    for _ in range(400):
        if len(marked(mark)) >= wanted:
            break
        time.sleep(0.1)
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 128 + number
    assert err.splitlines()[-1].startswith(
        f"nestedae: stopped by {number.name}"
    )
    assert "Traceback" not in err
    assert marked(mark) == []
    assert not (tmp_path / "x" / "run.json").exists()
    left = sorted(path.name for path in tmp_path.iterdir())
    if command == "run":
        assert left == ["notebooks"]
    else:
        assert left == ["notebooks", "x"]
        assert list((tmp_path / "x" / "runs").iterdir()) == []


def test_a_command_that_is_killed_leaves_no_process(notebooks, tmp_path):
    """Nothing can clean up after SIGKILL but what it started."""
    mark = f"mark-{tmp_path}"
    started = process(
        notebooks,
        *("run", "90", "-p", "workers=2", "-o", tmp_path / "x"),
        env=os.environ | {"TEST_MARK": mark},
    )
    for _ in range(400):
        if len(marked(mark)) >= 5:
            break
        time.sleep(0.1)
    started.kill()
    started.communicate()
    for _ in range(200):
        if not marked(mark):
            break
        time.sleep(0.1)
    assert marked(mark) == []
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"notebooks", ".x.lock"}


def test_the_kernel_is_this_python_in_a_bare_environment(notebooks, tmp_path):
    """No PATH, no HOME of a user, and a foreign kernel of the same name."""
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "x", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    started = process(
        notebooks,
        *("run", "90", "-o", tmp_path / "x"),
        env={
            "JUPYTER_PATH": str(tmp_path / "jupyter"),
            "PYTHONPATH": str(ROOT),
            "NESTEDAE_CACHE": str(tmp_path / "cache"),
        },
        cwd=tmp_path,
    )
    _, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    assert Path(results["python"]).samefile(sys.executable)


def test_a_reader_that_stops_reading(notebooks):
    done = subprocess.run(
        f"'{sys.executable}' -m nestedae_utils list | true",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_chapter_for_real(nestedae):
    words = "run 01 -p seeds=2 -p epochs=3 -p rows=20 -o x".split()
    status, out, err = nestedae(*words)
    assert status == 0, err
    record = runs.read(Path("x")).record
    assert record["device"] == "cpu"
    assert record["parameters"]["learning_rate"] == 0.005
    assert {path.name for path in Path("x").iterdir()} == {
        "01_autoencoders.html",
        "01_autoencoders.ipynb",
        "figures",
        "results.json",
        "run.json",
    }


# --- one's own data --------------------------------------------------------


@pytest.fixture
def declared(tmp_path):
    """Write a declaration that fits at once, and its two tables."""
    path = solvents.load("twin").write(tmp_path)
    text = path.read_text(encoding="utf-8")
    for slow, fast in (
        ("epochs: 300", "epochs: 2"),
        ("seeds: 5", "seeds: 1"),
        ("folds: 5", "folds: 2"),
    ):
        assert slow in text
        text = text.replace(slow, fast)
    path.write_text(text, encoding="utf-8")
    return path


def test_fit_and_predict(nestedae, declared, tmp_path):
    status, out, err = nestedae("fit", declared.name)
    assert (status, err) == (0, "")
    title = declared.stem
    report, *paths = out.rpartition(f"{title}/{title}.nestedae")
    assert "nested autoencoder" in report
    assert sorted(path.name for path in (tmp_path / title).iterdir()) == [
        f"{title}.nestedae",
        f"{title}_held_out.csv",
        f"{title}_report.csv",
    ]
    model = f"{title}/{title}.nestedae"
    status, out, err = nestedae("predict", model, "binding.csv")
    assert (status, err) == (0, "")
    rows = (tmp_path / "binding.csv").read_text().splitlines()
    assert out.splitlines()[0] == f"{rows[0]},energy_predicted,energy_spread"
    assert len(out.splitlines()) == len(rows)
    status, told, _ = nestedae("predict", model, "binding.csv", "-o", "p.csv")
    assert (status, told) == (0, "p.csv\n")
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == out


def test_a_model_is_not_replaced_unasked(nestedae, declared, tmp_path):
    assert nestedae("fit", declared.name, "-o", "kept")[0] == 0
    before = (tmp_path / "kept" / f"{declared.stem}.nestedae").read_bytes()
    status, out, err = nestedae("fit", declared.name, "-o", "kept")
    assert (status, out) == (1, "")
    assert "a model is there" in err
    assert err.count("\n") == 1
    after = (tmp_path / "kept" / f"{declared.stem}.nestedae").read_bytes()
    assert after == before
    assert nestedae("fit", declared.name, "-o", "kept", "--force")[0] == 0


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("fit nowhere.yml", 1, "nowhere.yml: no such file"),
        ("fit wrong.yml", 1, "wrong.yml, line 1"),
        ("fit", 2, "Missing argument 'FILE.yml'"),
        ("fit solvent_binding.yml --by rows", 2, "'rows' is not one of"),
        ("fit solvent_binding.yml --device gpu", 2, "device: 'gpu' given"),
        ("fit solvent_binding.yml -o gaps.csv", 1, "gaps.csv"),
        ("predict gaps.csv binding.csv", 1, "gaps.csv: "),
        ("predict nowhere.nestedae binding.csv", 1, "nowhere.nestedae"),
        ("predict kept/solvent_binding.nestedae new.csv", 1, "new.csv"),
        (
            "predict kept/solvent_binding.nestedae gaps.csv",
            1,
            "gaps.csv, column 'SOLVENT'",
        ),
        (
            "predict kept/solvent_binding.nestedae binding.csv -o binding.csv",
            2,
            "another file than the input",
        ),
        (
            "predict kept/solvent_binding.nestedae binding.csv --scale top",
            2,
            "'top'",
        ),
    ],
)
def test_faulty_fits_and_predictions(
    nestedae, declared, tmp_path, words, status, message
):
    (tmp_path / "wrong.yml").write_text("latents: 1\n")
    if words.startswith("predict kept"):
        assert nestedae("fit", declared.name, "-o", "kept")[0] == 0
    before = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    found, out, err = nestedae(*words.split())
    assert found == status, err
    assert out == ""
    assert err.startswith("nestedae: ")
    assert err.count("\n") == 1
    assert message in err
    after = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert after == before
