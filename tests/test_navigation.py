"""The Ising simulation, structured processes and hypothesis learning."""

import itertools

import numpy as np
import pytest

from nestedae_utils.chapters import experiments, ising, stepper
from nestedae_utils.chapters.means import JUMPS, KERNEL, LN, MEANS, TOY, N
from nestedae_utils.chapters.processes import JITTER, Process, likelihood
from nestedae_utils.errors import DataError


def enumerated(jx, jy, jd, temperature, size=4):
    """Return the exact energy and |m| of a small lattice, by all its states."""
    bits = np.array(list(itertools.product((1, -1), repeat=size)), np.int8)
    count = len(bits)
    rows = np.arange(count**size)
    spins = np.stack([bits[rows // count**k % count] for k in range(size)], 1)
    beside = (spins * np.roll(spins, 1, 2)).sum((1, 2))
    below = (spins * np.roll(spins, 1, 1)).sum((1, 2))
    across = sum(
        (spins * np.roll(spins, (1, way), (1, 2))).sum((1, 2)) for way in (1, -1)
    )
    energy = -(jx * beside + jy * below + jd * across)
    weight = np.exp(-(energy - energy.min()) / temperature)
    weight /= weight.sum()
    m = np.abs(spins.mean((1, 2)))
    return (weight * energy).sum() / size**2, (weight * m).sum()


@pytest.mark.parametrize(
    ("j", "temperature"),
    [((1.0, 1.0, 0.0), 2.5), ((0.5, 1.2, 0.3), 2.0), ((1.0, 1.0, -0.4), 1.5)],
)
def test_a_small_lattice_is_as_all_its_states_say(j, temperature):
    runs = ising.simulate(
        np.tile(j, (60, 1)), temperature, size=4, warm=100, sweeps=200, seed=1
    )
    both = runs.energy, runs.magnetisation
    for values, exact in zip(both, enumerated(*j, temperature), strict=True):
        error = values.std(ddof=1) / len(values) ** 0.5
        assert abs(values.mean() - exact) < 4 * error


def test_starts_agree_where_it_is_hot_and_seeds_make_it_again():
    hot = np.tile([1.0, 1.0, 0.2], (20, 1))
    up, random = (
        ising.simulate(hot, 8.0, size=8, start=start, warm=50, sweeps=100)
        for start in ising.STARTS
    )
    apart = up.energy.mean() - random.energy.mean()
    assert abs(apart) < 4 * np.hypot(up.energy.std(), random.energy.std()) / 20**0.5
    again = ising.simulate(hot, 8.0, size=8, warm=50, sweeps=100)
    np.testing.assert_array_equal(again.energy, up.energy)


def test_exact_results_are_those_known():
    assert ising.critical() == pytest.approx(2 / np.log(1 + 2**0.5))
    below = np.array([1.0, 2.0, 2.2])
    known = (1 - np.sinh(2 / below) ** -4) ** 0.125
    np.testing.assert_allclose(ising.magnetisation(below), known)
    assert not ising.magnetisation(np.array([2.3, 9.0])).any()
    points = ising.grid(5)
    assert not ising.ordered(points)[(points == [0, -5]).all(1)]
    assert ising.ordered(points)[(points == [0, 5]).all(1)]


def test_the_rim_is_beside_the_boundary():
    high = np.zeros((4, 4))
    high[:, 2:] = 1
    rim = ising.rim(high.reshape(-1)).reshape(4, 4)
    np.testing.assert_array_equal(rim, [[0, 1, 1, 0]] * 4)


# --- processes ----------------------------------------------------------------


def some(count=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-5, 5, (count, 2)), rng.uniform(0, 1, count)


@pytest.mark.parametrize("name", ["vanilla", "poly", "rule", "wrong"])
def test_the_density_of_many_walkers_is_that_of_a_direct_cholesky(name):
    process, (x, y) = Process(MEANS[name], **KERNEL), some()
    rng = np.random.default_rng(1)
    theta = np.stack([p.draw(rng, 5) for p in process.priors.values()], 1)
    p = process.values(theta)
    for w, found in enumerate(process.log_density(theta, x, y)):
        lengths = np.array([p["length 0"][w, 0], p["length 1"][w, 0]])
        root = 5**0.5 * np.linalg.norm((x[:, None] - x) / lengths, axis=-1)
        scale, noise = p["scale"][w, 0], p["noise"][w, 0]
        K = scale * (1 + root + root**2 / 3) * np.exp(-root)
        K += (noise + JITTER * (1 + scale)) * np.eye(len(x))
        rest = y - process.mean(x, p)[w]
        direct = -0.5 * rest @ np.linalg.solve(K, rest)
        direct -= 0.5 * np.linalg.slogdet(K)[1]
        prior = 0.0
        for one, u in zip(process.priors.values(), theta[w], strict=True):
            value = np.exp(u) if one.kind == "halfnormal" else u
            prior -= 0.5 * ((value - one.a) / one.b) ** 2
            prior += u if one.kind == "halfnormal" else 0
        assert found == pytest.approx(prior + direct)


def test_what_is_not_positive_definite_has_no_density():
    x, _ = some(3)
    found = likelihood(x, np.ones((1, 3)), np.ones((1, 2)), np.ones(1), -2 * np.ones(1))
    assert found[0] == -np.inf


def test_the_walkers_sample_a_posterior_that_is_known():
    """A line with normal priors and fixed noise: a normal posterior."""
    fixed = {"length": LN(0, 1e-3), "scale": LN(-16, 1e-3)}
    line = Process(
        MEANS["straight line"], axes=1, noise=LN(np.log(0.04), 1e-3), **fixed
    )
    rng = np.random.default_rng(2)
    x = np.linspace(0, 1, 15)[:, None]
    y = 0.5 + x[:, 0] + 0.2 * rng.standard_normal(15)
    _, draws = line.sample(x, y, 3, steps=3000)
    A = np.hstack([np.ones_like(x), x])
    covariance = np.linalg.inv(A.T @ A / 0.04 + np.eye(2))
    mean = covariance @ A.T @ y / 0.04
    sd = np.sqrt(np.diag(covariance))
    sampled = np.hstack([line.values(draws)[name] for name in "ab"])
    assert (np.abs(sampled.mean(0) - mean) < 0.35 * sd).all()
    assert (np.abs(sampled.std(0) / sd - 1) < 0.3).all()


def test_predictions_pass_through_what_is_known_and_doubt_the_rest():
    process = Process(MEANS["vanilla"], length=LN(0, 0.1), scale=LN(0, 0.1),
                      noise=LN(-12, 0.1))  # fmt: skip
    x, y = some()
    _, draws = process.sample(x, y, 0, steps=100)
    far = np.array([[50.0, 50.0]])
    at, away = (process.predict(draws, x, y, new) for new in (x, far))
    np.testing.assert_allclose(at.mean, y, atol=0.02)
    assert at.sd.max() < 0.02 < 0.8 < away.sd[0]


def test_left_out_density_of_one_draw_is_that_of_the_conditional():
    process, (x, y) = Process(MEANS["vanilla"], **KERNEL), some(6)
    theta = np.array([[0.3, 0.1, -0.5, -3.0, 0.4]])
    found = process.left_out(theta, x, y)
    p = process.values(theta)
    alone = []
    for n in range(6):
        rest = np.delete(np.arange(6), n)
        told = process.predict(theta, x[rest], y[rest], x[n : n + 1])
        variance = told.sd[0] ** 2 + p["noise"][0, 0] + JITTER * (1 + p["scale"][0, 0])
        away = y[n] - told.mean[0]
        alone.append(-0.5 * (np.log(2 * np.pi * variance) + away**2 / variance))
    assert found == pytest.approx(np.mean(alone), rel=1e-4)


def test_data_that_no_prior_allows_are_told():
    process = Process(MEANS["vanilla"], **KERNEL)
    x, _ = some(3)
    with pytest.raises(DataError, match="no draw of the prior"):
        process.sample(x, np.full(3, np.nan), 0)


# --- experiments ------------------------------------------------------------------


class Known:
    """A process that knows the truth, and doubts what it has not seen."""

    def __init__(self, truth, sd=1.0, density=0.0):
        self.truth, self.sd, self.density = truth, sd, density

    def sample(self, x, y, seed, walkers=None):
        return None, None

    def predict(self, draws, x, y, new):
        from nestedae_utils.chapters.processes import Predicted

        apart = np.abs(new[:, :1] - x[:, 0]).min(1)
        return Predicted(self.truth, self.sd * apart, 0.0)

    def left_out(self, draws, x, y):
        return self.density


def test_the_next_point_is_the_one_that_is_least_sure():
    points = np.arange(10.0)[:, None]
    found = experiments.explore(Known(points[:, 0]), points, points[:, 0], 8, 0)
    assert len(set(found.order)) == 8
    for count in range(4, 8):
        seen = found.order[:count]
        apart = np.abs(points - points[seen, 0]).min(1)
        assert apart[found.order[count]] == apart.max()
    scores = experiments.scores([found], points[:, 0], level=4.5)
    assert not scores.wrong.any()
    assert (scores.cover == 100).all()


def test_variance_rewards_the_sure_and_left_out_density_the_fitting():
    points = np.arange(12.0)[:, None]
    truth = points[:, 0]
    both = [Known(truth, sd=0.1, density=-5.0), Known(truth, sd=1.0, density=-1.0)]
    top = {
        reward: experiments.hypothesise(
            both, points, truth, truth, (0, 11), 6, 0, reward
        )
        .value[-1]
        .argmax()  # fmt: skip
        for reward in experiments.REWARDS
    }
    assert top == {"variance": 0, "left out": 1}


def test_a_toy_campaign_measures_what_it_says():
    x = np.linspace(0, 2.5, 30)[:, None]
    truth = np.where(x[:, 0] < 1.6, x[:, 0] ** 4, x[:, 0] ** 2.5)
    three = [Process(MEANS[name], **TOY, axes=1) for name in JUMPS]
    found = experiments.hypothesise(three, x, truth, truth, (0, 10, 20, 29), 4, 0)
    assert len(set(found.order)) == 8
    assert list(found.used[:4]) == [-1] * 4
    assert set(found.used[4:]) <= {0, 1, 2}
    assert found.left_out.argmax() == 2
    assert np.isfinite(found.rmse).all()


def test_priors_draw_what_they_say():
    rng = np.random.default_rng(0)
    assert N(3, 2).draw(rng, 4000).mean() == pytest.approx(3, abs=0.15)
    half = KERNEL["noise"].value(KERNEL["noise"].draw(rng, 4000))
    assert half.min() > 0
    assert half.mean() == pytest.approx(0.05 * (2 / np.pi) ** 0.5, rel=0.05)


def test_a_stepper_reads_without_scripts():
    html = stepper.stepper(["data:a", "data:b"], ["4: first", "5: second"], "s")
    assert "<script" not in html
    assert html.count("checked>") == 1
    assert html.count("<p>") == html.count('type="radio"') == 2
