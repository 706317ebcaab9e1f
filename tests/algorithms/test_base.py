"""What environments report, over iterations and devices."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.core.contract import episode_metrics
from rljax.devices import AXIS


def test_episodes_count_alike_whichever_device_they_ended_on():
    """Two devices, three steps of two environments: one episode ends on the first, three on the second."""
    done = jnp.zeros((2, 3, 2), bool).at[0, 2, 0].set(True).at[1, 1].set(True).at[1, 2, 1].set(True)
    total = jnp.arange(12.0).reshape(2, 3, 2)
    progress = total.at[0, 0, 0].set(jnp.nan)  # a task that has nothing to say of a step
    reported = {"episode_return": total, "episode_length": 2 * total, "progress": progress}
    found = jax.vmap(episode_metrics, axis_name=AXIS)(reported, done)
    ended = np.asarray(total)[np.asarray(done)]
    assert len(ended) == 4
    for device in range(2):
        means = {name: x.value[device] for name, x in found.items()}
        np.testing.assert_allclose(means["episode/return"], ended.mean())
        np.testing.assert_allclose(means["episode/length"], 2 * ended.mean())
        np.testing.assert_allclose(means["env/progress"], np.arange(1.0, 12.0).mean())
    none = episode_metrics(jax.tree.map(lambda x: x[0], reported), jnp.zeros((3, 2), bool))
    assert (none["episode/return"].total, none["episode/return"].count) == (0.0, 0.0)
