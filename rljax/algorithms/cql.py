"""CQL: values that are low where data are missing; and Cal-QL, with values of the right scale to continue online.

Kumar et al. 2020, "Conservative Q-learning for offline reinforcement learning" (CQL, arXiv 2006.04779): SAC with a
penalty on the values of actions that the data do not have, eq. 4, CQL(H).
Nakamoto et al. 2023, "Cal-QL: calibrated offline RL pre-training for efficient online fine-tuning" (arXiv 2303.05479):
no value of the policy's actions is pushed below the data's return from the same state.
"""

import dataclasses
from math import log
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import devices
from rljax.algorithms import sac
from rljax.algorithms.core.contract import Algorithm
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.offline import OfflineConfig, assemble
from rljax.config import Count, NonNegative, Positive, Whole, Widths
from rljax.data import Batch, Dataset
from rljax.data.prepared import Prepared
from rljax.envs import Environment
from rljax.ops.returns import bootstrapped
from rljax.types import Key, Metrics, PyTree


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, sac.Config):
    """Settings of CQL(H), by default the authors' for MuJoCo; further ones are SAC's.

    The authors' code is github.com/aviralkumar2907/CQL; JaxCQL, Cal-QL and CORL have the same values.
    """

    learning_rate: Positive = 3e-5
    """Learning rate of the policy, lower than the critics' (section 6 and appendix F)."""
    temperature_learning_rate: Positive = 3e-5
    """Learning rate of the temperature; the authors' code uses the policy's."""
    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers of the policy, and of the critics where critic_hidden is None."""
    initial_log_std: float = -1.0
    """Offset of the logarithm of the policy's deviation."""
    penalty_weight: NonNegative = 10.0
    """Weight α of the penalty, the gap between the values of sampled actions and of the data's (eq. 4)."""
    num_actions: Count = 10
    """Number of candidates of each kind: uniform, from the policy at s, and from the policy at s' (appendix F)."""
    penalty_draws: Whole = 0
    """Candidates, sampled by softmax weight, from which the penalty's gradient is estimated, unbiased, at a third of
    the matrix products; 0 takes all candidates."""
    lagrange: bool = False
    """Whether a factor of α is learned to keep the gap at target_gap (eq. 30); it starts at e."""
    target_gap: float = 0.8
    """Gap τ that a learned factor maintains (AntMaze), in units of the scaled rewards."""
    max_target: bool = False
    """Whether targets take the best of num_actions of the policy's actions (AntMaze)."""
    entropy_in_target: bool = False
    """Whether targets include SAC's entropy bonus."""
    calibrated: bool = False  # type: ignore[misc]
    """Whether the penalty spares values of the policy's actions below the data's return-to-go (Cal-QL)."""


class Hyper(sac.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    penalty_weight: jax.Array
    target_gap: jax.Array


class Agent(sac.Agent):
    """SAC's networks, with the penalty in the update of the critics."""

    hyper_type = Hyper
    config: Config

    def init(self, key: Key) -> Learner:
        learner = super().init(key)
        # log α' starts at 1, as in Cal-QL's code.
        params = learner.params | ({"log_penalty_weight": jnp.ones((), jnp.float32)} if self.config.lagrange else {})
        return Learner.init(params, self.optimizers(self.hyper()), targets=("critic",))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        return {**super().optimizers(hyper), "log_penalty_weight": optax.adam(hyper.critic_learning_rate)}

    def target(self, learner: Learner, batch: Batch, keys: Any, hyper: Hyper) -> jax.Array:  # type: ignore[override]
        """r + γ min Q(s', a'), [batch]; of the best a' of several where `max_target` says so."""
        c, (action_key, _, dropout_key) = self.config, keys
        distribution = self.policy(learner.params["policy"], batch.next_obs)
        action_keys = jax.random.split(action_key, c.num_actions if c.max_target else 1)
        action, log_prob = jax.vmap(distribution.sample_and_log_prob)(action_keys)
        value = self.values(learner.targets["critic"], batch.next_obs, action, dropout_key).min(0)
        if c.entropy_in_target:
            value = value - self.temperature(learner.params, hyper) * log_prob
        return bootstrapped(batch.reward, batch.discount, value.max(0))

    def candidates(self, learner: Learner, batch: Batch, key: Key) -> tuple[jax.Array, jax.Array]:
        """Actions [3 num_actions, batch, d] and their log-densities: uniform, of π(·|s), and of π(·|s').

        All are evaluated at s.
        """
        count, policy = self.config.num_actions, learner.params["policy"]
        uniform_key, here_key, next_key = jax.random.split(key, 3)
        shape = (count, *batch.action.shape)
        uniform = jax.random.uniform(uniform_key, shape, jnp.float32, minval=-1.0, maxval=1.0)
        parts = [(uniform, jnp.full(shape[:-1], self.action_size * log(0.5), jnp.float32))]
        for obs, own_key in ((batch.obs, here_key), (batch.next_obs, next_key)):
            parts.append(jax.vmap(self.policy(policy, obs).sample_and_log_prob)(jax.random.split(own_key, count)))
        actions, log_probs = zip(*parts, strict=True)
        return jnp.concatenate(actions), jnp.concatenate(log_probs)

    def floor(self, batch: Any) -> jax.Array:
        """Lower bounds of the candidates' values, [3 num_actions, batch] (Cal-QL, eq. 5.1)."""
        count = self.config.num_actions
        none = jnp.full((count, *batch.reward.shape), -jnp.inf, jnp.float32)
        if not self.config.calibrated:
            return jnp.concatenate([none] * 3)
        own = jnp.broadcast_to(batch.return_to_go, none.shape)
        return jnp.concatenate([none, own, own])

    def values_and_soft_maximum(
        self, critics: PyTree, learner: Learner, batch: Batch, key: Key
    ) -> tuple[jax.Array, jax.Array]:
        """Q(s, a) of the data, and log Σ exp(Q(s, a') - log-density) of candidates a' (eq. 4); [num_critics, batch].

        With `penalty_draws` the second's gradient is estimated from a few candidates, sampled by softmax weight, since
        ∇ log Σ exp f = Σ softmax(f) ∇f is an expectation.
        """
        c = self.config
        candidate_key, dropout_key, draw_key = jax.random.split(key, 3)
        action, log_prob = self.candidates(learner, batch, candidate_key)
        floor, draws = self.floor(batch), c.penalty_draws
        # On a CPU, one pass for each kind of candidate, whose activations stay in its cache.
        passes = 3 if jax.default_backend() == "cpu" else 1
        chunks = action.reshape(passes, -1, *action.shape[1:])
        of_candidates = jax.lax.stop_gradient(critics) if draws else critics
        value = jax.lax.map(lambda chunk: self.values(of_candidates, batch.obs, chunk, dropout_key), chunks)
        value = jnp.moveaxis(value, 0, 1).reshape(c.num_critics, *log_prob.shape)
        logits = jnp.maximum(value, floor[None]) - log_prob[None]
        soft_maximum = jax.nn.logsumexp(logits, axis=1)
        if not draws:
            return self.values(critics, batch.obs, batch.action, dropout_key), soft_maximum
        index = jax.random.categorical(draw_key, logits, axis=1, shape=(draws, c.num_critics, batch.reward.shape[0]))
        index = jnp.moveaxis(index, 0, 1)  # [num_critics, draws, batch]
        drawn = jax.vmap(lambda i: jnp.take_along_axis(action, i[..., None], axis=0))(index)
        data = jnp.broadcast_to(batch.action, (c.num_critics, 1, *batch.action.shape))
        actions = jnp.concatenate([data, drawn], axis=1)
        values = self.values(critics, batch.obs, actions, dropout_key, each=True)
        # A value below its floor counts as the floor, which has no gradient.
        above = jnp.take_along_axis(value, index, axis=1) > jnp.take_along_axis(floor[None], index, axis=1)
        gradient_only = (above * (values[:, 1:] - jax.lax.stop_gradient(values[:, 1:]))).mean(1)
        return values[:, 0], soft_maximum + gradient_only

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:  # type: ignore[override]
        """One step of the critics on their errors and the penalty (eq. 4), and of the target critics after them."""
        c, (*target_keys, penalty_key) = self.config, jax.random.split(key, 4)
        target = self.target(learner, batch, target_keys, hyper)
        weight, optimizers = hyper.penalty_weight, self.optimizers(hyper)
        if c.lagrange:
            weight = weight * jnp.clip(jnp.exp(learner.params["log_penalty_weight"]), 0.0, 1e6)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            value, soft_maximum = self.values_and_soft_maximum(params, learner, batch, penalty_key)
            error = jnp.square(value - target[None]).mean(-1).sum()
            gap = (soft_maximum - value).mean(-1)
            return error + weight * gap.sum(), (error, gap.mean(), value.mean())

        (_, (error, gap, value)), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["critic"])
        learner = learner.descend("critic", devices.mean(gradient), optimizers["critic"])
        learner = learner.move_target("critic", hyper.target_rate)
        metrics = {"loss/critic": error, "value/mean": value, "value/gap": gap}
        if c.lagrange:
            # Dual ascent on eq. 30, in the logarithm: the factor grows while the gap is above its target.
            slope = -weight * (devices.mean(gap) - hyper.target_gap)
            learner = learner.descend("log_penalty_weight", slope, optimizers["log_penalty_weight"])
            metrics["value/penalty_weight"] = weight
        return learner, metrics


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    online: bool = False,
    network: nn.Module | None = None,
) -> Algorithm:
    """CQL on a dataset; with `online`, also on the agent's experience in `env`, from an offline state's learner.

    Args:
      env: the task; offline, used for its spaces and for evaluation only.
      config: settings; the defaults where None.
      dataset: what to learn from; without one, the algorithm can only load a policy.
      online: act and learn in the environment as well (see core/offline.py).
      network: a flax module in place of convolutions (see `nn.encoder.encode`); policy and critics have one each.

    Raises:
      Refused: the environment's spaces do not fit, or the dataset does not fit them.
    """
    return assemble("cql", env, config or Config(), Agent, make, dataset, online, network=network)
