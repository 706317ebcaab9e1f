"""RL in the noise of a frozen diffusion or flow policy: settings, and agents that learn the noise.

A frozen sampler f(s, w) turns noise w deterministically into a chunk of actions (diffusion.py), so that the noise is an
action space. Noise that is likely under N(0, I) leads to demonstrated behaviour; noise far out, or between two
demonstrated behaviours, need not. No gradient goes through the sampler.

Wagenmaker et al. 2025, "Steering your diffusion policy with latent space reinforcement learning" (DSRL, arXiv
2506.15799):

- dsrl_sac: soft actor-critic with w as its action (section 4.1).
- dsrl_na: noise aliasing (section 4.2, algorithm 1). A critic of actions Q_A(s, a) learns by temporal differences, also
  from data without noise; a critic of noise Q_W(s, w) imitates Q_A(s, f(s, w)), and the policy maximises Q_W.

GR-RL's agent is in grrl.py, and a baseline in residual.py; steering.py puts the agents into an environment of chunks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro

from rljax import devices
from rljax.algorithms import diffusion, sac
from rljax.algorithms.core.agent import Acted
from rljax.algorithms.core.learner import Learner, Optimizers, scan_for_means
from rljax.algorithms.core.offline import OfflineConfig
from rljax.config import (
    Atoms,
    BelowOne,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Whole,
    Widths,
    config_from_dict,
    require,
)
from rljax.data import Batch
from rljax.ops.returns import bootstrapped
from rljax.spaces import ArraySpace, Space, vector
from rljax.types import Key, Metrics, PyTree

Method = Literal["dsrl_sac", "dsrl_na", "grrl_steer", "residual"]


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, sac.Config):
    """Settings of steering; SAC's apply to its policy and critics, whose steps are chunks."""

    method: Method = "dsrl_sac"
    """Algorithm that learns the noise, or the residual."""
    noise_bound: Positive = 1.0
    """Bound of each component of the noise (DSRL: about 1.5), or of a residual on actions in [-1, 1] (default: 0.1)."""
    noise_steps: int = 1
    """Independent noise vectors per chunk, which neighbouring steps share; 0 gives every step its own. 1 leaves d
    dimensions to search, as in the paper for large policies."""
    distillation_steps: Count = 1
    """Updates of Q_W for each update of Q_A, in dsrl_na (10 by default) and grrl_steer; each samples a chunk."""
    noise_penalty: NonNegative = 0.1
    """Penalty c of grrl_steer for each unit of ½ ‖ε‖² / size beyond noise_threshold."""
    noise_threshold: NonNegative = 0.5
    """Threshold β of grrl_steer, per dimension; 0.5 is the mean of N(0, I)."""
    exploration_noise: NonNegative = 0.3
    """Deviation of the exploration noise that grrl_steer adds to its predictor's output."""
    num_atoms: Atoms = 51
    """Number of atoms of grrl_steer's distributions."""
    reward_per_step: Positive = 1.0
    """Factor of the task's rewards, before a chunk's are averaged over its steps."""
    num_envs: Count = 16
    """Environments stepped together, over all devices."""
    num_updates: Count = 32
    """Batches learned from after each rollout (the paper: about 20 per chunk)."""
    initial_temperature: Positive = 0.01
    """Temperature α at the start, for rewards of at most 1 per chunk."""
    learning_starts: Whole = 1600
    """Chunks from noise N(0, I), over all environments, before the first update."""
    replay_size: int = 200_000
    """Chunks kept, over all environments."""
    discount: Fraction = 0.98
    """Discount γ from one chunk to the next."""
    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers of policy and critics."""
    layer_norm: bool = True
    """Layer normalisation in the critics."""
    target_entropy_per_dim: float = 0.0
    """Target entropy in nats for each dimension of the noise, in units of its bound."""
    offline_share: BelowOne = 0.0
    """Share of demonstrations in each batch; they have no noise, so that dsrl_sac cannot learn from them."""
    sampler: Annotated[diffusion.Config, tyro.conf.Suppress] = dataclasses.field(default_factory=diffusion.Config)
    """Settings of the steered policy."""

    def __post_init__(self) -> None:
        if isinstance(self.sampler, Mapping):
            object.__setattr__(self, "sampler", config_from_dict(diffusion.Config, dict(self.sampler)))
        super().__post_init__()
        if self.method in ("dsrl_sac", "residual"):
            require(self, "offline_share", self.offline_share == 0, f"0 with {self.method}")
        divides = self.noise_steps >= 0 and self.sampler.horizon % max(self.noise_steps, 1) == 0
        require(self, "noise_steps", divides, f"0, or divide the sampler's horizon = {self.sampler.horizon}")
        fewer = self.newest_size < self.replay_size
        require(self, "newest_size", fewer, f"below replay_size = {self.replay_size}, or all are the newest")
        alike = self.normalize_observation == self.sampler.normalize_observation
        require(self, "normalize_observation", alike, "as the steered policy has it")

    @property
    def own_noise(self) -> int:
        """Number of independent noise vectors per chunk; with residual, of residual and policy actions."""
        return 2 * self.sampler.executed if self.method == "residual" else self.noise_steps or self.sampler.horizon


DSRL_NA = Config(
    method="dsrl_na",
    noise_bound=1.5,
    noise_steps=0,
    distillation_steps=10,
    reward_per_step=4.0,
    num_envs=4,
    num_updates=20,
    learning_starts=6004,
    initial_temperature=1.0,
    discount=0.99,
    hidden=(2048, 2048, 2048),
    activation="tanh",
)
"""Settings of the authors' robomimic code (cfg/robomimic/dsrl_can.yaml, and their base's 8 DDIM steps): 20 updates
after each chunk of 4 environments, 10 steps of Q_W in each, a target entropy of 0, a temperature that begins at 1, and
rewards summed over chunks of 4. Unlike here, their policy has layer normalisation too, and their base's noise is
clipped at 3. Width 2048 is for a GPU: on a CPU, `--hidden 256 256 256`."""


class Agent(sac.Agent):
    """A soft actor-critic of noise.

    Args:
      config: settings.
      observation_space: space of observations with their history.
      action_space: space of noise and chunk together.
      sampler: the steered policy's agent.
      base: the sampler's parameters, which are frozen.
    """

    config: Config

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: ArraySpace,
        *,
        sampler: diffusion.Agent,
        base: PyTree,
    ):
        self.noise_size = config.own_noise * sampler.action_size
        self.chunk_size = action_space.shape[0] - self.noise_size
        self.sampler, self.base = sampler, base
        super().__init__(config, observation_space, action_space)

    def build(self, network: nn.Module | None) -> None:
        for values in (False, True):
            self.seen(values=values)  # refuses parts, which vectors do not have
        self.learns_of(self.obs_size, self.noise_size)

    def learns_of(self, obs_size: int, action_size: int) -> None:
        """Sets what its own policy and critics see and do, which differs from the executed actions."""
        self.learned_obs, self.action_size = vector(obs_size), action_size
        self.actor = sac.Actor(self.config, action_size, self.learned_obs)
        self.critic: nn.Module = sac.Critic(self.config, self.learned_obs)

    @property
    def example_obs(self) -> jax.Array:
        return jnp.zeros((1, *self.learned_obs.shape), jnp.float32)

    @property
    def example_action(self) -> jax.Array:
        return jnp.zeros((1, self.action_size), jnp.float32)

    def init(self, key: Key) -> Learner:
        return super().init(key).replace(frozen={"base": jax.tree.map(jnp.copy, self.base)})

    def acting(self, learner: Learner, hyper: sac.Hyper) -> dict[str, PyTree]:
        return {"params": learner.params["policy"], "base": learner.frozen["base"]}

    def spread(self, noise: jax.Array) -> jax.Array:
        """Noise [..., noise] as the sampler takes it, [..., horizon, d]."""
        own = noise.reshape(*noise.shape[:-1], self.config.own_noise, -1)
        return jnp.repeat(own, self.config.sampler.horizon // self.config.own_noise, axis=-2)

    def draw(self, key: Key, shape: tuple[int, ...]) -> jax.Array:
        """Noise N(0, I), [*shape, noise], whether or not steps share it."""
        return jax.random.normal(key, (*shape, self.noise_size), jnp.float32)

    def decode(self, base: PyTree, obs: jax.Array, noise: jax.Array) -> jax.Array:
        """Chunks [..., chunk] sampled from noise [..., noise]."""
        return self.chunk(base, obs, self.spread(noise))

    def chunk(self, base: PyTree, obs: jax.Array, noise: jax.Array) -> jax.Array:
        """Chunks sampled from noise [..., horizon, d], without a gradient."""
        chunk = self.sampler.sample_chunk(base, obs, noise, self.sampler.label(obs))
        chunk = chunk[..., : self.config.sampler.executed, :]
        return jax.lax.stop_gradient(chunk.reshape(*chunk.shape[:-2], -1))

    def noise(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        """The noise policy's choice, [..., noise], in its own units."""
        distribution = self.policy(params, obs)
        return self.config.noise_bound * (distribution.mode() if deterministic else distribution.sample(key))

    def act(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, deterministic: bool) -> Acted:
        """Acts with noise in units of its bound and the chunk sampled from it, [..., noise + chunk]."""
        noise = self.noise(variables["params"], obs, key, deterministic)
        return self._with_chunk(variables["base"], obs, noise), memory, ()

    def start(self, variables: dict[str, PyTree], obs: jax.Array, memory: PyTree, key: Key, hyper: sac.Hyper) -> Acted:
        """Acts with noise N(0, I), as the frozen policy does except where steps share their noise."""
        return self._with_chunk(variables["base"], obs, self.draw(key, obs.shape[:-1])), memory, ()

    def _with_chunk(self, base: PyTree, obs: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.concatenate([noise / self.config.noise_bound, self.decode(base, obs, noise)], axis=-1)

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics, PyTree]:
        """All updates of an iteration, from batches [num_updates, batch, …], by the noise of their chunks."""
        noise = batches.action[..., : self.noise_size]
        return super().learn(learner, batches.replace(action=noise), key, hyper)


class AliasedAgent(Agent):
    """Learns values of chunks, and distils them into values of noise: noise aliasing, algorithm 1."""

    def init(self, key: Key) -> Learner:
        key, action_key = jax.random.split(key)
        learner, chunk = super().init(key), jnp.zeros((1, self.chunk_size), jnp.float32)
        params = learner.params | {"action_critic": self.init_critics(action_key, self.example_obs, chunk)}
        targets = ("action_critic",)
        return Learner.init(params, self.optimizers(self.hyper()), targets, learner.frozen)

    def optimizers(self, hyper: sac.Hyper) -> Optimizers:
        return {**super().optimizers(hyper), "action_critic": optax.adam(hyper.critic_learning_rate)}

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics, PyTree]:
        chunk = batches.action[..., self.noise_size :]
        return sac.Agent.learn(self, learner, batches.replace(action=chunk), key, hyper)

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics]:
        """One step of Q_A towards its target, then of the target critics; then several of Q_W towards Q_A."""
        target_key, dropout_key, distillation_key = jax.random.split(key, 3)
        target = self.action_target(learner, batch, target_key)

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            output = self.values(params, batch.obs, batch.action, dropout_key)
            return self.error(output, target), self.expected(output).mean()

        (error, value), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["action_critic"])
        learner = learner.descend("action_critic", devices.mean(gradient), self.optimizers(hyper)["action_critic"])
        learner = learner.move_target("action_critic", hyper.target_rate)

        def distill(learner: Learner, key: Key) -> tuple[Learner, Metrics]:
            learner, distance = self.distill(learner, batch.obs, key, hyper)
            return learner, {"loss/distillation": distance}

        keys = jax.random.split(distillation_key, self.config.distillation_steps)
        learner, distances = scan_for_means(distill, learner, keys)
        return learner, distances | {"loss/critic": error, "value/mean": value}

    def action_target(self, learner: Learner, batch: Batch, key: Key) -> jax.Array:
        """r + γ min Q_A'(s', f(s', π(s'))), [batch]."""
        noise_key, dropout_key = jax.random.split(key)
        noise = self.noise(learner.params["policy"], batch.next_obs, noise_key, False)
        chunk = self.decode(learner.frozen["base"], batch.next_obs, noise)
        following = self.values(learner.targets["action_critic"], batch.next_obs, chunk, dropout_key).min(0)
        return bootstrapped(batch.reward, batch.discount, following)

    def distill(self, learner: Learner, obs: jax.Array, key: Key, hyper: sac.Hyper) -> tuple[Learner, jax.Array]:
        """One step of Q_W(s, w) towards Q_A(s, f(s, w)), critic by critic; and the loss before it."""
        noise_key, teacher_key, dropout_key = jax.random.split(key, 3)
        noise = self.distilled_noise(learner.params["policy"], obs, noise_key)
        chunk = self.decode(learner.frozen["base"], obs, noise)
        target = self.as_target(self.values(learner.params["action_critic"], obs, chunk, teacher_key))

        def loss(params: PyTree) -> jax.Array:
            return self.error(self.values(params, obs, noise / self.config.noise_bound, dropout_key), target)

        error, gradient = jax.value_and_grad(loss)(learner.params["critic"])
        return learner.descend("critic", devices.mean(gradient), self.optimizers(hyper)["critic"]), error

    def distilled_noise(self, params: PyTree, obs: jax.Array, key: Key) -> jax.Array:
        """Noise [batch, noise] on which Q_W is distilled: N(0, I)."""
        return self.draw(key, obs.shape[:1])

    def error(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Error of critics [num_critics, batch, …] against a target, common or one for each; f32 []."""
        return 0.5 * jnp.square(output - jnp.broadcast_to(target, output.shape)).mean(-1).sum()

    def expected(self, output: jax.Array) -> jax.Array:
        """The value that a critic's output represents."""
        return output

    def as_target(self, output: jax.Array) -> jax.Array:
        """The target for other critics in a critic's output."""
        return output
