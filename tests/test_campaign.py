"""Campaigns: pools, policies, instruments that fail, and what a kill leaves."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import told
from test_sweeps import Cluster

from nestedae_utils import cli
from nestedae_utils.chapters import conavigation, replays
from nestedae_utils.data import perovskites
from nestedae_utils.rerun import campaign, pools
from nestedae_utils.rerun.execution import RunError
from nestedae_utils.study import policies


@pytest.fixture
def table(tmp_path):
    """Return a pool of 40 arms, highest in the middle."""
    x = np.linspace(-1, 1, 40)
    lines = ["x,kind,y", *(f"{v:.4f},{'ab'[n % 2]},{1 - v**2:.6f}"
                           for n, v in enumerate(x))]  # fmt: skip
    path = tmp_path / "pool.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# --- policies -------------------------------------------------------------------


def arms(seed=0, count=30):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, 2))
    return x, 1 - (x**2).sum(1)


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_a_policy_suggests_what_is_free(policy):
    x, y = arms()
    learner = policies.Learner(x, arms=[0, 1, 2, 3], values=list(y[:4]))
    pending = [4, 5]
    drawn = {
        learner.suggest(policy, np.random.default_rng(seed), pending)
        for seed in range(4)
    }
    assert not drawn & {0, 1, 2, 3, 4, 5}


def test_improvement_finds_a_maximum_sooner_than_chance():
    x, y = arms(1, 60)
    away = {
        policy: np.mean([
            y.max() - y[replays.replay(policy, x, y[:, None], 4, 14, seed).arms].max()
            for seed in range(3)
        ])
        for policy in ("improvement", "random")
    }  # fmt: skip
    assert away["improvement"] < away["random"]


def test_policies_begin_with_the_same_arms_and_go_on_from_given_ones():
    x, y = arms()
    draws = y[:, None]
    first = [replays.replay(p, x, draws, 4, 6, 0) for p in ("random", "greedy")]
    np.testing.assert_array_equal(first[0].arms[:4], first[1].arms[:4])
    on = replays.replay("random", x, draws, 4, 9, 0, given=first[1].arms)
    np.testing.assert_array_equal(on.arms[:6], first[1].arms)
    assert len(set(on.arms)) == 9


def test_noise_is_no_reason_to_recommend_a_lucky_arm():
    x = np.linspace(-1, 1, 9)[:, None]
    learner = policies.Learner(x, again=True)
    learner.arms = [*range(9)] * 3 + [8]
    learner.values = [*(1 - x[:, 0] ** 2)] * 3 + [1.5]
    assert abs(replays.recommended(learner) - 4) <= 1


def test_a_simulated_clock_lets_instruments_work_side_by_side():
    x, y = arms(2, 40)
    one, free, rounds = (
        replays.laboratory(x, y, 4, 12, 0, *how, failing=0.3)
        for how in ((1, False), (3, False), (3, True))
    )
    assert len(set(free.arms)) == len(set(rounds.arms)) == 12
    np.testing.assert_array_equal(one.failed, free.failed)
    assert one.failed.sum() > 0
    np.testing.assert_allclose(one.end - one.begin, free.end - free.begin)
    assert one.end.max() == pytest.approx((one.end - one.begin).sum())
    at_work = (free.begin <= free.begin[:, None]) & (free.begin[:, None] < free.end)
    assert at_work.sum(1).max() == 3
    assert free.end.max() < rounds.end.max() < one.end.max()
    begins, ends = rounds.begin.reshape(4, 3), rounds.end.reshape(4, 3)
    assert (begins[1:].min(1) >= ends[:-1].max(1)).all()


def test_latents_are_taught_by_what_was_measured_alone():
    tables, others = conavigation.load("twin")
    gaps = perovskites.band_gap_arrays(tables.band_gaps)
    pool = conavigation.solvent_pool(others.binding)
    lower = conavigation.materials_scale(gaps, 1)
    known = [np.arange(6), np.arange(3, 12)]
    hidden = [row + 9.0 if n > 11 else row for n, row in enumerate(pool.rows)]
    one, two = (
        conavigation.supervised(each, gaps, lower, known, 1)
        for each in (pool, dataclasses.replace(pool, rows=hidden))
    )
    assert one.shape == (2, len(pool.rows), conavigation.LATENTS)
    np.testing.assert_array_equal(one, two)
    regret = conavigation.regret(pool, [replays.Replayed(known[0], known[0])])
    np.testing.assert_allclose(regret[0], pool.values.max() - pool.values[:6])


# --- pools ------------------------------------------------------------------------


def test_a_pool_is_read_with_its_texts_as_columns(table):
    pool = pools.read(table, "y")
    assert pool.features.shape == (40, 3)
    assert list(pool.arms) == ["x", "kind"]
    assert pool.target.argmax() in (19, 20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace(",0.000000", ",nan", 1), "'nan' found, a finite number"),
        (lambda t: t.replace(",b,", ",a,"), "column 'kind': one value in all rows"),
        (lambda t: t.replace("x,kind,y", "x,kind,z"), "column 'y' is missing"),
    ],
)
def test_a_faulty_pool_is_told_in_one_line(table, change, words):
    table.write_text(change(table.read_text(encoding="utf-8")), encoding="utf-8")
    assert words in told(pools.read, table, "y")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "target: none given"),
        ("--target y --budget 0", "budget: 0 given"),
        ("--target y --first 41", "first: 41 given for a pool of 40 arms"),
        ("--target y --policy gredy", "Did you mean 'greedy'?"),
        ("--target y --policy thompson", "one of improvement, bound"),
        ("--target y --instrument nowhere:f", "instrument: 'nowhere:f' given"),
        ("--target y --instruments 0", "instruments: 0 given"),
        ("--target y --failing 2", "failing: 2.0 given"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    table, capsys, tmp_path, words, message
):
    out = tmp_path / "out"
    status = cli.main(["campaign", *map(str, [table, *words.split(), "-o", out])])
    assert status == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()


# --- campaigns -----------------------------------------------------------------


def settings(**changes):
    return campaign.Settings(**{"policy": "trees", "budget": 12, **changes})


def test_a_campaign_fails_retries_and_measures_each_arm_once(table, tmp_path):
    pool = pools.read(table, "y")
    lab = pools.Simulated(pool, seconds=0.01, failing=0.4)
    found = campaign.run(pool, settings(instruments=3), tmp_path / "c", lab)
    assert len(found) == len(set(found["arm"])) == 12
    assert found["faults"].map(len).sum() > 0
    good = found["value"].notna()
    wanted = pool.target[found["arm"]]
    np.testing.assert_allclose(found["value"][good], wanted[good])
    failed = found["faults"].map(len) == 3
    np.testing.assert_array_equal(~good, failed)


def test_rounds_wait_and_free_instruments_do_not(table, tmp_path):
    pool = pools.read(table, "y")
    lab = pools.Simulated(pool, seconds=0.05)
    what = settings(instruments=3, rounds=True, policy="random")
    found = campaign.run(pool, what, tmp_path / "c", lab)
    begins = found["begin"].to_numpy().reshape(4, 3)
    ends = found["end"].to_numpy().reshape(4, 3)
    assert (begins[1:].min(1) >= ends[:-1].max(1)).all()


def test_other_settings_are_refused_in_a_folder_that_is_taken(table, tmp_path):
    pool = pools.read(table, "y")
    lab = pools.Simulated(pool)
    six = campaign.run(pool, settings(budget=6), tmp_path / "c", lab)
    with pytest.raises(RunError, match="with other settings"):
        campaign.run(pool, settings(budget=7, seed=1), tmp_path / "c", lab)
    # a budget may grow
    nine = campaign.run(pool, settings(budget=9), tmp_path / "c", lab)
    assert len(nine) == 9
    np.testing.assert_array_equal(nine["begin"][:6], six["begin"])


LOGGED = '''
"""An instrument that writes down each time that it measures to the end."""
import os, time

def measure(arm, attempt):
    time.sleep(0.3)
    file = os.open(os.environ["LOGGED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, (arm["x"] + "\\n").encode())
    os.close(file)
    return 1 - float(arm["x"]) ** 2
'''


@pytest.fixture
def logged(tmp_path):
    """Write the instrument; return the variables with which it is found."""
    (tmp_path / "logged.py").write_text(LOGGED, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "LOGGED": str(tmp_path / "log")}


def started(table, tmp_path, logged, *more):
    words = f"campaign {table} --target y --policy trees --budget 12 --instruments 2"
    words += f" --instrument logged:measure -o {tmp_path / 'c'}"
    command = [sys.executable, "-m", "nestedae_utils", *words.split(), *more]
    how = {"env": os.environ | logged, "text": True}
    how |= dict.fromkeys(["stdout", "stderr"], subprocess.PIPE)
    return subprocess.Popen(command, **how)


def wait_for(folder, count, process):
    while sum("value" in one for one in campaign.asked(folder)) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def whole(tmp_path):
    """Look at what a campaign left: each arm once, each result as it is."""
    found = campaign.asked(tmp_path / "c")
    order = [one["arm"] for one in found]
    assert len(order) == len(set(order)) == 12
    assert None not in [one["value"] for one in found]


@pytest.mark.slow
def test_a_killed_campaign_goes_on_and_repeats_nothing(table, tmp_path, logged):
    folder = tmp_path / "c"
    process = started(table, tmp_path, logged)
    wait_for(folder, 5, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = campaign.asked(folder)
    process = started(table, tmp_path, logged)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    whole(tmp_path)
    for one, now in zip(before, campaign.asked(folder), strict=False):
        assert one["arm"] == now["arm"]
        assert "value" not in one or one == now, "measured again"
    # of the two that ran when it was killed, at most the end was not seen
    log = (tmp_path / "log").read_text().split()
    assert len(set(log)) == 12
    assert len(log) <= 14


@pytest.mark.slow
def test_a_scheduler_with_workers_of_which_one_is_killed(table, tmp_path, logged):
    with Cluster(tmp_path, logged) as cluster:
        process = started(table, tmp_path, logged, "--scheduler", cluster.address)
        waits = f"waiting for a worker at {cluster.address}"
        assert waits in process.stderr.readline()
        cluster.hire()
        wait_for(tmp_path / "c", 4, process)
        cluster.workers[0].send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    whole(tmp_path)
    assert len(set((tmp_path / "log").read_text().split())) == 12
