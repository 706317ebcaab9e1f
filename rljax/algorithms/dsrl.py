"""RL in the noise of a diffusion or flow policy, which stays as it is: its settings, and agents that learn the noise.

A frozen sampler f(s, w) turns noise w into a chunk of actions, and nothing else is drawn (diffusion.py). So its noise
is a space of actions, which lead to what the demonstrations have shown; no gradient goes through the sampler.

Wagenmaker et al. 2025, "Steering your diffusion policy with latent space reinforcement learning" (DSRL, arXiv
2506.15799):

dsrl_sac: soft actor-critic with w for an action (section 4.1).
dsrl_na: noise aliasing (section 4.2, algorithm 1). A critic of actions Q_A(s, a) learns by temporal differences, so
  that also data without noise teach it; a critic of noise Q_W(s, w) imitates Q_A(s, f(s, w)), which the policy follows.

residual: what the others are compared with, soft actor-critic of what is added to the actions of the chunk that w = 0
  makes.

GR-RL's agent is in grrl.py; what puts them into an environment of chunks, in steering.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from rljax.algorithms import diffusion, sac
from rljax.algorithms.base import config_from_dict, require
from rljax.algorithms.off_policy import Learner
from rljax.algorithms.offline import OfflineConfig
from rljax.data import Batch
from rljax.ops.returns import bootstrapped
from rljax.types import Key, Metrics, PyTree

Method = Literal["dsrl_sac", "dsrl_na", "grrl_steer", "residual"]


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, sac.Config):
    """Settings of steering; those of SAC hold for its policy and critics, whose steps are chunks."""

    method: Method = "dsrl_sac"
    """Algorithm that learns the noise, or the residual."""
    noise_bound: float = 1.0
    """Bound of each component of the noise (the paper: about 1.5, where no steps share it); with residual, of what is
    added to actions in [-1, 1], for which 0.1 is more suitable."""
    noise_steps: int = 1
    """Independent noise vectors per chunk, which neighbouring steps share; 0 gives every step its own. 1 leaves d
    dimensions to search, as in the paper for large policies."""
    distillation_steps: int = 1
    """Updates of Q_W for each update of Q_A, in dsrl_na and grrl_steer (DSRL: 10); each samples a chunk."""
    noise_penalty: float = 0.1
    """c of grrl_steer: what noise costs, for each unit of ½ ‖ε‖² / size beyond noise_threshold."""
    noise_threshold: float = 0.5
    """β of grrl_steer, for each dimension: that of N(0, I), on average."""
    exploration_noise: float = 0.3
    """Deviation of the noise that grrl_steer adds to its predictor's while it explores."""
    num_atoms: int = 51
    """Atoms of grrl_steer's distributions."""
    reward_per_step: float = 1.0
    """Factor of the task's rewards, before those of a chunk are averaged over its steps."""
    num_envs: int = 16
    """Environments stepped together, over all devices."""
    num_updates: int = 32
    """Batches learned from after each rollout; the paper: about 20 for each chunk."""
    initial_temperature: float = 0.01
    """Weight of the entropy at the start, for rewards of at most 1 a chunk."""
    learning_starts: int = 1600
    """Chunks from noise N(0, I), over all environments, before the first update."""
    replay_size: int = 200_000
    """Chunks kept, over all environments."""
    discount: float = 0.98
    """γ, from one chunk to the next."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of policy and critics."""
    layer_norm: bool = True
    """Layer normalisation in the critics."""
    target_entropy_per_dim: float = 0.0
    """Target entropy in nats for each dimension of the noise, in units of its bound."""
    offline_share: float = 0.0
    """The part of each batch that is the demonstrations'; they have no noise, so that dsrl_sac cannot learn of them."""
    sampler: Annotated[diffusion.Config, tyro.conf.Suppress] = dataclasses.field(default_factory=diffusion.Config)
    """Settings of the policy that is steered."""

    def __post_init__(self) -> None:
        if isinstance(self.sampler, Mapping):
            object.__setattr__(self, "sampler", config_from_dict(diffusion.Config, dict(self.sampler)))
        super().__post_init__()
        require(self, "method", self.method in get_args(Method), f"one of {', '.join(get_args(Method))}")
        if self.method in ("dsrl_sac", "residual"):
            require(self, "offline_share", self.offline_share == 0, f"0 with {self.method}")
        require(self, "noise_bound", self.noise_bound > 0, "positive")
        divides = self.noise_steps >= 0 and self.sampler.horizon % max(self.noise_steps, 1) == 0
        require(self, "noise_steps", divides, f"0, or divide the sampler's horizon = {self.sampler.horizon}")
        require(self, "distillation_steps", self.distillation_steps >= 1, "at least 1")
        require(self, "reward_per_step", self.reward_per_step > 0, "positive")
        for name in ("noise_penalty", "noise_threshold", "exploration_noise"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "num_atoms", self.num_atoms >= 2, "at least 2")
        alike = self.normalize_observation == self.sampler.normalize_observation
        require(self, "normalize_observation", alike, "as the steered policy has it")

    @property
    def own_noise(self) -> int:
        """How many of a chunk's steps have noise of their own."""
        return self.sampler.executed if self.method == "residual" else self.noise_steps or self.sampler.horizon


class Agent(sac.Agent):
    """A soft actor-critic of noise.

    Args:
      config: settings.
      obs_size: of the observations with their history.
      action_size: of noise and chunk together.
      sampler: the agent of the policy that is steered.
      base: its parameters.
      axis_name: mesh axis over whose devices gradients are averaged.
    """

    def __init__(
        self, config: Config, obs_size: int, action_size: int, axis_name: str | None = None, *,
        sampler: diffusion.Agent, base: PyTree,
    ):  # fmt: skip
        self.noise_size = config.own_noise * sampler.action_size
        super().__init__(config, obs_size, self.noise_size, axis_name)
        self.sampler, self.base, self.chunk_size = sampler, base, action_size - self.noise_size

    def spread(self, noise: jax.Array) -> jax.Array:
        """Noise [..., noise] as the sampler takes it, [..., horizon, d]."""
        own = noise.reshape(*noise.shape[:-1], self.config.own_noise, -1)
        return jnp.repeat(own, self.config.sampler.horizon // self.config.own_noise, axis=-2)

    def draw(self, key: Key, shape: tuple[int, ...]) -> jax.Array:
        """Noise N(0, I), [*shape, noise]; where steps share it, as small as the mean of what they would have had."""
        share = self.config.own_noise / self.config.sampler.horizon
        return jnp.float32(np.sqrt(share)) * jax.random.normal(key, (*shape, self.noise_size), jnp.float32)

    def decode(self, base: PyTree, obs: jax.Array, noise: jax.Array) -> jax.Array:
        """Chunks [..., chunk] that noise [..., noise] makes."""
        return self.chunk(base, obs, self.spread(noise))

    def chunk(self, base: PyTree, obs: jax.Array, noise: jax.Array) -> jax.Array:
        """Those that the sampler makes of noise [..., horizon, d], without a gradient."""
        chunk = self.sampler.sample(base, obs, noise, self.sampler.label(obs))
        chunk = chunk[..., : self.config.sampler.executed, :]
        return jax.lax.stop_gradient(chunk.reshape(*chunk.shape[:-2], -1))

    def noise(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        """What the noise policy asks for, [..., noise] in its own units."""
        return self.config.noise_bound * super().act(params, obs, key, deterministic)

    def act(self, params: PyTree, obs: jax.Array, key: Key, deterministic: bool) -> jax.Array:
        """Noise in units of its bound, and the chunk that it makes, [..., noise + chunk]."""
        return self._with_chunk(obs, self.noise(params, obs, key, deterministic))

    def explore(self, obs: jax.Array, key: Key) -> jax.Array:
        """The same of noise N(0, I): what the frozen policy does."""
        return self._with_chunk(obs, self.draw(key, obs.shape[:-1]))

    def _with_chunk(self, obs: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.concatenate([noise / self.config.noise_bound, self.decode(self.base, obs, noise)], axis=-1)

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics]:
        """All updates of an iteration, from batches [num_updates, batch, …], by the noise of their chunks."""
        noise = batches.action[..., : self.noise_size]
        return super().learn(learner, batches.replace(action=noise), key, hyper)


class AliasedAgent(Agent):
    """Learns what chunks are worth, and of that what noise is worth: noise aliasing, algorithm 1."""

    def init(self, actor_key: Key, critic_key: Key) -> Learner:
        noise_key, action_key = jax.random.split(critic_key)
        learner = super().init(actor_key, noise_key)
        obs, chunk = jnp.zeros((1, self.obs_size)), jnp.zeros((1, self.chunk_size))

        def init_critic(key: Key) -> PyTree:
            return self.critic.init({"params": key, "dropout": key}, obs, chunk)

        of_actions = jax.vmap(init_critic)(jax.random.split(action_key, self.config.num_critics))
        params = learner.params | {"action_critic": of_actions}
        return Learner.init(params, targets=("action_critic",))

    def learn(self, learner: Learner, batches: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics]:
        chunk = batches.action[..., self.noise_size :]
        return sac.Agent.learn(self, learner, batches.replace(action=chunk), key, hyper)

    def update_critic(self, learner: Learner, batch: Batch, key: Key, hyper: sac.Hyper) -> tuple[Learner, Metrics]:
        """One step of Q_A towards its target, and of the target critics after it; then some of Q_W towards Q_A."""
        target_key, dropout_key, *keys = jax.random.split(key, 2 + self.config.distillation_steps)
        target = self.action_target(learner, batch, target_key)

        def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
            output = self.values(params, batch.obs, batch.action, dropout_key)
            return self.error(output, target), self.expected(output).mean()

        (error, value), gradient = jax.value_and_grad(loss, has_aux=True)(learner.params["action_critic"])
        learner = learner.descend("action_critic", self.devices.mean(gradient), hyper.critic_learning_rate)
        learner = learner.move_target("action_critic", hyper.target_rate)
        distance = jnp.zeros((), jnp.float32)
        for key in keys:
            learner, distance = self.distill(learner, batch.obs, key, hyper)
        return learner, {"loss/critic": error, "loss/distillation": distance, "value/mean": value}

    def action_target(self, learner: Learner, batch: Batch, key: Key) -> jax.Array:
        """r + γ min Q_A'(s', f(s', π(s'))), [batch]."""
        noise_key, dropout_key = jax.random.split(key)
        noise = self.noise(learner.params["policy"], batch.next_obs, noise_key, False)
        chunk = self.decode(self.base, batch.next_obs, noise)
        following = self.values(learner.targets["action_critic"], batch.next_obs, chunk, dropout_key).min(0)
        return bootstrapped(batch.reward, batch.discount, following)

    def distill(self, learner: Learner, obs: jax.Array, key: Key, hyper: sac.Hyper) -> tuple[Learner, jax.Array]:
        """One step of Q_W(s, w) towards Q_A(s, f(s, w)), critic by critic; and the loss before it."""
        noise_key, teacher_key, dropout_key = jax.random.split(key, 3)
        noise = self.distilled_noise(learner.params["policy"], obs, noise_key)
        chunk = self.decode(self.base, obs, noise)
        target = self.as_target(self.values(learner.params["action_critic"], obs, chunk, teacher_key))

        def loss(params: PyTree) -> jax.Array:
            return self.error(self.values(params, obs, noise / self.config.noise_bound, dropout_key), target)

        error, gradient = jax.value_and_grad(loss)(learner.params["critic"])
        return learner.descend("critic", self.devices.mean(gradient), hyper.critic_learning_rate), error

    def distilled_noise(self, params: PyTree, obs: jax.Array, key: Key) -> jax.Array:
        """Of which Q_W learns what it is worth, [batch, noise]: N(0, I)."""
        return self.draw(key, obs.shape[:1])

    def error(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """How far critics [num_critics, batch, …] are from a target, for all critics or for each; f32 []."""
        return 0.5 * jnp.square(output - jnp.broadcast_to(target, output.shape)).mean(-1).sum()

    def expected(self, output: jax.Array) -> jax.Array:
        """The value that a critic's output means."""
        return output

    def as_target(self, output: jax.Array) -> jax.Array:
        """What others learn from a critic's output."""
        return output


class ResidualAgent(Agent):
    """Learns what to add to the actions of the chunks that noise 0 makes."""

    def draw(self, key: Key, shape: tuple[int, ...]) -> jax.Array:
        """Anything that it may add."""
        bound = self.config.noise_bound
        return jax.random.uniform(key, (*shape, self.noise_size), jnp.float32, -bound, bound)

    def decode(self, base: PyTree, obs: jax.Array, noise: jax.Array) -> jax.Array:
        return jnp.clip(
            self.chunk(base, obs, jnp.zeros((*obs.shape[:-1], *self.sampler.chunk_shape), jnp.float32)) + noise,
            -1.0,
            1.0,
        )
