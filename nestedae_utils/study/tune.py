"""Fine-tuning: all scales of a fitted chain trained together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.cache import cached
from nestedae_utils.model.chain import NestedAutoencoder, Table, beside
from nestedae_utils.model.networks import row_losses
from nestedae_utils.model.reference import one_thread


@cached
def fine_tune(
    chain: NestedAutoencoder,
    tables: Mapping[str, Table],
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    epochs: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
) -> NestedAutoencoder:
    """Return a new chain, all its weights trained together by Adam.

    The loss is the sum of the scales' losses, each on its own table, so that
    the lower scales stay true to theirs while the upper ones pull on them.
    Scalers stay as they are; dropout and L1 are off.

    For every scale of the fitted chain, of R replicas or one that serves all,
    ``tables`` has its table, with the blocks of the scales below too, and
    ``rows`` the training rows of each of R replicas, from which ``epochs *
    steps`` batches are drawn with replacement. A `ParameterError` tells of a
    loss that stops being finite.
    """
    R = len(next(iter(rows.values())))
    tuned = NestedAutoencoder(chain.scales.values())
    weights: dict[str, dict[str, Tensor]] = {}
    for name, fitted in chain.fitted.items():
        fitted = fitted.take([n % len(fitted.replicas) for n in range(R)])
        weights[name] = {k: torch.tensor(v) for k, v in fitted.parameters.items()}
        # with tensors for arrays, what the chain computes has gradients
        tuned.fitted[name] = replace(fitted, parameters=weights[name])  # type: ignore[arg-type]
    leaves = [leaf.requires_grad_() for p in weights.values() for leaf in p.values()]
    whole = {
        name: {
            key: torch.tensor(v, dtype=torch.float32).expand(R, -1, -1)
            for key, v in table.items()
        }
        for name, table in tables.items()
    }
    adam = torch.optim.Adam(leaves, lr=learning_rate)
    random = np.random.default_rng(seed)
    with one_thread():
        for _ in range(epochs * steps):
            loss = torch.zeros(())
            for name in tuned.scales:
                drawn = [random.choice(r, batch_size) for r in rows[name]]
                at = np.arange(R)[:, None], np.stack(drawn)
                batch = {key: v[at] for key, v in whole[name].items()}
                loss = loss + scale_loss(tuned, name, batch)
            adam.zero_grad()
            loss.backward()
            adam.step()
    if not torch.isfinite(loss):
        raise ParameterError(
            f"learning_rate: {learning_rate} given, but the loss of the "
            "fine-tuning is not finite; lower it."
        )
    for name, fitted in tuned.fitted.items():
        arrays = {k: v.detach().numpy() for k, v in weights[name].items()}
        tuned.fitted[name] = replace(fitted, parameters=arrays)
    return tuned


def scale_loss(chain: NestedAutoencoder, name: str, batch: Table) -> Tensor:
    """Return a scale's mean loss on a batch, summed over the replicas.

    What it reconstructs is a constant: the scales below do not move to be
    easier to reconstruct.
    """
    fitted, scale = chain.fitted[name], chain.scales[name]
    values = {key: chain.scaled(name, key, batch) for key in scale.blocks}
    parts = [scale.blocks_of(head) or [head.name] for head in scale.heads]
    targets = [beside([values[key] for key in keys]).detach() for keys in parts]
    p, x = fitted.together(beside([values[block.name] for block in scale.inputs]))
    return row_losses(scale, p, x, targets)[0].mean(1).sum()
