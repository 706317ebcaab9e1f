"""TD3+BC: the policy maximises Q and stays near the data; and ReBRAC, whose critics stay near them too.

Fujimoto and Gu 2021, "A minimalist approach to offline reinforcement learning" (TD3+BC, arXiv 2106.06860), eq. 3 to 5.
Tarasov et al. 2023, "Revisiting the minimalist approach to offline reinforcement learning" (ReBRAC, arXiv 2305.09836):
a penalty in the targets as well, deeper networks with layer normalisation, larger batches.

`Config()` is the algorithm of 2021; `REBRAC` below are settings of 2023.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.algorithms import td3
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.learner import Learner
from rljax.algorithms.core.offline import OfflineConfig, assemble
from rljax.config import NonNegative, require
from rljax.data import Dataset, OfflineBatch
from rljax.data.prepared import Prepared
from rljax.envs import Environment
from rljax.nn.networks import apply
from rljax.ops.returns import bootstrapped
from rljax.types import Key, Metrics, PyTree, Refused


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, td3.Config):
    """Settings of TD3+BC; further ones are TD3's. One iteration is two updates; one updates the policy too."""

    value_weight: NonNegative = 2.5
    """Weight α of Q, divided by its mean size, against the mean squared distance to the data's actions (eq. 5); for
    ReBRAC, which sums the distance over d dimensions, 1 / (β₁ d)."""
    target_penalty: NonNegative = 0.0
    """Weight β₂ of ReBRAC's penalty in targets: the squared distance of the target policy's next action from the
    data's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        penalized = self.num_atoms == 0 or self.target_penalty == 0
        require(self, "num_atoms", penalized, "0 where target_penalty is positive")


REBRAC = Config(
    batch_size=1024,
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    hidden=(256, 256, 256),
    layer_norm=True,
    normalize_observation=False,
    policy_value="min",
    value_weight=1 / (0.001 * 6),
    target_penalty=0.01,
)
"""ReBRAC for HalfCheetah's medium data, six dimensions of actions: β₁ = 0.001 and β₂ = 0.01, normalised critics alone.

The values are those of the authors' CORL (configs/offline/rebrac/halfcheetah/medium_v2.yaml); they differ from dataset
to dataset.
"""


class Hyper(td3.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    value_weight: jax.Array
    target_penalty: jax.Array


class Agent(td3.Agent):
    """TD3's networks, whose policy imitates as well."""

    hyper_type = Hyper
    config: Config

    def target(self, learner: Learner, batch: OfflineBatch, key: Key, hyper: Hyper) -> jax.Array:  # type: ignore[override]
        """TD3's target less β₂ ‖ã - a'‖², with the data's next action a' (ReBRAC, eq. 4)."""
        if self.config.num_atoms:
            return super().target(learner, batch, key, hyper)
        action = self.next_action(learner, batch.next_obs, key, hyper)
        value = self.critics(learner.targets["critic"], batch.next_obs, action).min(0)
        distance = jnp.square(action - batch.next_action).sum(-1)
        return bootstrapped(batch.reward, batch.discount, value - hyper.target_penalty * distance)

    def update_policy(self, learner: Learner, batch: OfflineBatch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:  # type: ignore[override]
        """One step up α Q(s, π(s)) / mean |Q| - (π(s) - a)² (eq. 5), and of the targets after it."""

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            action, critics = self.policy(params, batch.obs), learner.params["critic"]
            if self.config.policy_value == "min":
                value = self.value(self.critics(critics, batch.obs, action)).min(0)
            else:
                first = jax.tree.map(lambda x: x[0], critics)
                value = self.value(apply(self.critic, first, batch.obs, action))
            size = jax.lax.stop_gradient(jnp.abs(value).mean())
            distance = jnp.square(action - batch.action).mean()
            return distance - hyper.value_weight * value.mean() / size, distance

        (error, distance), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["policy"])
        return self.step_policy(learner, gradient, hyper), {"loss/policy": error, "policy/squared_distance": distance}


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    online: bool = False,
    network: nn.Module | None = None,
) -> Algorithm:
    """TD3+BC on a dataset; with `online`, also on the agent's experience in `env`, from an offline state's learner.

    Args:
      env: the task; offline, used for its spaces and for evaluation only.
      config: settings; the defaults where None.
      dataset: what to learn from; without one, the algorithm can only load a policy.
      online: act and learn in the environment as well (see core/offline.py).
      network: a flax module in place of convolutions (see `nn.encoder.encode`); policy and critics have one each.

    Raises:
      Refused: the environment's spaces do not fit, or the dataset does not fit them.
    """
    c = config or Config()
    if online and c.target_penalty:
        raise Refused("td3_bc: online, target_penalty must be 0: what an agent does has no next action of the data")
    return assemble("td3_bc", env, c, Agent, make, dataset, online, network=network)
