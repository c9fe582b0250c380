"""What the audit measures, against direct counts of small cases."""

import numpy as np
import pytest

from nestedae_utils.chapters import audit
from nestedae_utils.model.chain import fit
from nestedae_utils.model.replicas import Replicas
from nestedae_utils.model.scales import Block, Head, Scale
from nestedae_utils.study import protocol

SHORT = {"epochs": 3, "batch_size": 10, "learning_rate": 1e-2}


def test_shift_of_the_mean_over_batches():
    errors = np.random.default_rng(0).random(24)
    batches = np.split(errors, [5, 10, 15, 20])
    expected = np.mean([batch.mean() for batch in batches]) - errors.mean()
    shift = audit.batch_shift(errors, np.array([4, 24 // 5]))
    assert shift[0] == pytest.approx(expected)
    random = audit.random_shifts([errors], np.array([4]), orders=400)
    assert abs(random.mean()) < 0.02
    assert random.std() > abs(random.mean())


def test_a_row_is_predicted_by_those_that_held_it_out():
    random = np.random.default_rng(1)
    table = {"x": random.random((30, 2)), "y": random.random((30, 1))}
    scale = Scale("one", (Block("x", 2),), 2, (Head("y", 1), Head("x", 2)))
    splits = protocol.row_folds(30, 3)
    chain = fit(scale, table, Replicas.cross(splits, 2), **SHORT)
    predicted = audit.held_out(chain, table)
    assert predicted.shape == (2, 30)
    by_replica = chain.predict(table)["y"][..., 0]
    for fold, (_, rows) in enumerate(splits):
        np.testing.assert_array_equal(
            predicted[:, rows], by_replica[2 * fold : 2 * fold + 2, rows]
        )


def test_best_epoch_is_the_lowest_of_those_measured():
    curve = np.array([[3.0, 1.0, 2.0], [3.0, 2.0, 4.0]])
    choices = audit.epoch_choices({"gap": curve}).set_index("choice")
    assert choices["mean"].to_list() == [3.0, 1.5, 2.5]


def test_single_autoencoder_has_as_many_parameters():
    nested = protocol.synthetic_nested("text")
    single = audit.single_as_large(nested)
    counts = audit.parameters(single), audit.parameters(nested)
    assert counts[0] == pytest.approx(counts[1], rel=0.03)


def test_errors_of_functions_agree_with_the_history():
    tables = np.random.default_rng(2).standard_normal((2, 40, 13))
    unit = tables.std(1, keepdims=True)
    chain = protocol.fit_synthetic(
        protocol.synthetic_single("text"), tables, seeds=3, **SHORT
    )
    fitted = chain.fitted["single"]
    errors = audit.function_errors(chain, tables, tables, unit)
    for rows, kind in (("train", "train"), ("test", "validation")):
        at_end = fitted.at_end(f"{kind}_per_sample", "inputs_mae")
        np.testing.assert_allclose(
            errors[rows].mean(2),
            fitted.replicas.grid(at_end, "table", "seed"),
            rtol=1e-4,
        )


def test_through_the_whole_chain_errors_are_those_of_its_last_latents():
    tables = np.random.default_rng(3).standard_normal((1, 40, 13))
    chain = protocol.fit_synthetic(
        protocol.synthetic_nested("text"), tables, seeds=2, **SHORT
    )
    by_way = [
        audit.function_errors(chain, tables, tables, np.ones(13), whole)["test"]
        for whole in (True, False)
    ]
    assert by_way[0].shape == (1, 2, 13)
    # the first scale's functions are decoded from other latents
    assert (by_way[0][..., :4] != by_way[1][..., :4]).all()
    np.testing.assert_allclose(by_way[0][..., 4:], by_way[1][..., 4:])


def test_intervals_in_words():
    assert audit.gain(np.array([0.5])) == "0.500"
    assert audit.gain(np.array([0.4, 0.6])) == "0.500 (-0.771 to 1.771)"
