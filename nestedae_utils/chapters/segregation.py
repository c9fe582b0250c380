"""What layers that segregate in a map are compared with: encoders that know nothing."""

from dataclasses import replace

import numpy as np

from nestedae_utils.model.chain import NestedAutoencoder, Table
from nestedae_utils.model.networks import initial


def untrained_maps(chain: NestedAutoencoder, table: Table, draws: int) -> np.ndarray:
    """Return the last scale's latents by its first weights, (draws, R, n, L).

    Every draw gives each of the R replicas a seed of its own; their scalers,
    and the scales below, are those of the chain.
    """
    name, fitted = list(chain.fitted.items())[-1]
    other, maps = NestedAutoencoder(chain.scales.values()), []
    seeds = np.arange(draws * len(fitted.replicas.splits)).reshape(draws, -1)
    for some in seeds:
        drawn = [initial(fitted.scale, int(seed)) for seed in some]
        first = {key: np.stack([one[key] for one in drawn]) for key in drawn[0]}
        started = replace(fitted, parameters={**fitted.parameters, **first})
        other.fitted = {**chain.fitted, name: started}
        maps.append(other.encode(table))
    return np.stack(maps)
