"""Diffusion and flow policies: imitate chunks of actions by learning to take noise away from them.

Diffusion: Chi et al. 2023, "Diffusion policy" (arXiv 2303.04137), on denoising diffusion (Ho et al. 2020, arXiv
2006.11239) with the cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672), predicting velocities (Salimans and
Ho 2022, arXiv 2202.00512, eq. 8 and appendix D: unlike the noise, they say at every step where the data lie), sampled
without noise of its own (Song et al. 2021, DDIM, arXiv 2010.02502, eq. 12 with σ = 0). Flow: Lipman et al. 2023, "Flow
matching" (arXiv 2210.02747), straight paths from noise to data, sampled by Euler's method.

Both samplers are functions of the noise: `Agent.sample_chunk(params, obs, noise)`. RL in that noise: steering.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax import devices
from rljax.algorithms.core import agent as core
from rljax.algorithms.core.blocks import Encoding, Parts
from rljax.algorithms.core.contract import Algorithm, continuous
from rljax.algorithms.core.experience import ReplayConfig
from rljax.algorithms.core.learner import Learner, Optimizers
from rljax.algorithms.core.offline import OfflineConfig, assemble
from rljax.config import BelowOne, Count, Fraction, Positive, Share, Whole, one_of, require
from rljax.data import Dataset
from rljax.data.chunks import ChunkBatch, Chunks
from rljax.data.prepared import ActionNormalization, Prepared, prepare
from rljax.envs import Environment, RescaleAction
from rljax.nn.denoisers import DENOISERS
from rljax.nn.encoder import Encoder, check_network
from rljax.nn.networks import apply
from rljax.nn.precision import Precision, dot_general_of
from rljax.ops import history, running_statistics
from rljax.ops.trees import chosen
from rljax.policy import Policy
from rljax.spaces import as_given, batch_shape, example
from rljax.types import Key, Metrics, PyTree

Objective = Literal["diffusion", "flow"]
ENCODER_STREAM = 0xC44
"""Keys of the encoder's parameters are `fold_in(key, this)`."""


@dataclasses.dataclass(frozen=True)
class Config(OfflineConfig, Encoding, Parts, ReplayConfig):
    """Settings of diffusion and flow policies."""

    learns_from_rewards: ClassVar[bool] = False

    objective: Objective = "diffusion"
    """Training objective: diffusion, or flow matching."""
    history: Count = 2
    """Observations that the policy sees, the newest included (the paper: 2)."""
    horizon: Count = 8
    """Actions that the policy predicts at once: a chunk."""
    executed: int = 4
    """Actions of a chunk that are executed before the next one is predicted (the paper: half of horizon)."""
    action_normalization: ActionNormalization = "minmax"
    """Range of the actions that becomes [-1, 1]: minmax, the data's; quantiles, the data's without the outermost
    hundredths, which are clipped; bounds, the environment's."""
    sampler_steps: Count = 8
    """Evaluations of the network for one chunk."""
    denoising_steps: Count = 100
    """Noise levels of diffusion in training (the paper: 100)."""
    network: Annotated[str, one_of(DENOISERS)] = "mlp"
    """Network of the policy: mlp, with residual blocks, or transformer."""
    width: Count = 512
    """Width of the network's layers; 128 to 256 for a transformer."""
    blocks: Count = 3
    """Blocks of the network."""
    labels: Whole = 0
    """Number of labels that the policy can be conditioned on; 0 for none."""
    label_dropout: BelowOne = 0.3
    """Probability that training withholds the label, so that a policy without one is learned too (Recap: 0.3)."""
    acts_with: int = -1
    """Label with which the policy acts; -1 for none."""
    guidance: float = 1.0
    """Weight of the label in sampling: 0 ignores it, 1 follows it, more exaggerates it (Recap: 1.5 to 2.5)."""
    learning_rate: Positive = 1e-3
    """Initial step size of Adam; experiments decay it to 0."""
    average_rate: Share = 2e-3
    """Rate at which the averaged weights, which act, follow the trained ones at each update."""
    discount: Fraction = 0.99
    """Discount γ of the returns-to-go alone."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products (mlp); bfloat16 is faster on TPUs, GPUs and CPUs that have it."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """The width of the features of an image, as `encode` asks for it."""
        return (self.width,)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "executed", 1 <= self.executed <= self.horizon, "in [1, horizon]")
        if self.objective == "diffusion":
            require(self, "sampler_steps", self.sampler_steps <= self.denoising_steps, "at most denoising_steps")
        require(self, "acts_with", -1 <= self.acts_with < max(self.labels, 0), f"-1, or below labels = {self.labels}")


class Hyper(core.Hyper):
    """Scalars that may differ between the members of one vmapped program; named as in `Config`."""

    average_rate: jax.Array


class Agent(core.Agent):
    """The denoiser, its update and its sampler."""

    hyper_type = Hyper
    config: Config

    def build(self, network: nn.Module | None) -> None:
        c = self.config
        self.seen_space = history.space_of(self.seen(), c.history)
        check_network(network, self.seen_space)
        self.encoder = Encoder(self.seen_space, c, network)
        products = {"dot_general": dot_general_of(c.precision)} if c.network == "mlp" else {}
        self.network = DENOISERS[c.network](width=c.width, blocks=c.blocks, **products)
        self.action_size = self.action_space.shape[0]
        self.chunk_shape = (c.horizon, self.action_size)
        self.alpha, self.sigma = cosine_schedule(c.denoising_steps)

    def init(self, key: Key) -> Learner:
        chunk, obs = jnp.zeros((1, *self.chunk_shape)), example(self.seen_space, 1)
        features, of_encoder = self.encoder.init_with_output(jax.random.fold_in(key, ENCODER_STREAM), obs)
        condition = self._condition(features, jnp.zeros(1, jnp.int32))
        params = dict(self.network.init(key, chunk, jnp.zeros(1), condition))
        if of_encoder:
            params["encoder"] = of_encoder
        return Learner.init({"policy": params}, self.optimizers(self.hyper()), targets=("policy",))

    def optimizers(self, hyper: Hyper) -> Optimizers:
        return {"policy": optax.adam(hyper.learning_rate)}

    def features(self, params: PyTree, obs: PyTree) -> jax.Array:
        """Features [..., n] of histories of observations, which all steps of the sampler share."""
        return apply(self.encoder, params.get("encoder", {}), obs)

    def velocity(
        self, params: PyTree, chunk: jax.Array, time: jax.Array, features: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """Predicted velocities of noisy chunks [..., horizon, d] at times [...] in [0, 1], and features.

        They estimate α ε - σ a for diffusion and a - ε for flow, with noise ε and clean actions a.
        """
        return apply(self.network, params, chunk, time, self._condition(features, label))

    def sample_chunk(self, params: PyTree, obs: PyTree, noise: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """Chunks [..., horizon, d] in [-1, 1] from noise of that shape: nothing else is drawn."""
        c, features = self.config, self.features(params, obs)

        def velocity(chunk: jax.Array, time: Any) -> jax.Array:
            time = jnp.broadcast_to(time, chunk.shape[:-2])
            conditioned = self.velocity(params, chunk, time, features, label)
            if label is None or c.guidance == 1.0:
                return conditioned
            free = self.velocity(params, chunk, time, features)
            return free + c.guidance * (conditioned - free)

        if c.objective == "flow":
            step = 1.0 / c.sampler_steps
            chunk = jax.lax.fori_loop(
                0, c.sampler_steps, lambda i, chunk: chunk + step * velocity(chunk, i * step), noise
            )
            return jnp.clip(chunk, -1.0, 1.0)
        # From pure noise to none; at the last time, without noise, the network is not evaluated.
        at = np.round(np.linspace(c.denoising_steps, 0, c.sampler_steps + 1)).astype(int)
        alpha, sigma = jnp.float32(self.alpha[at]), jnp.float32(self.sigma[at])

        def denoise(chunk: jax.Array, x: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            time, alpha, sigma, next_alpha, next_sigma = x
            v = velocity(chunk, time)
            action = jnp.clip(alpha * chunk - sigma * v, -1.0, 1.0)
            return next_alpha * action + next_sigma * (sigma * chunk + alpha * v), None

        times = jnp.float32(at[:-1] / c.denoising_steps)
        chunk, _ = jax.lax.scan(denoise, noise, (times, alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]))
        return chunk

    def label(self, obs: PyTree) -> jax.Array | None:
        """The label that it acts with, for histories of observations; None for none."""
        c = self.config
        return None if c.acts_with < 0 else jnp.full(batch_shape(self.seen_space, obs), c.acts_with)

    def update(self, learner: Learner, batch: ChunkBatch, key: Key, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One step on the squared distance of the network's velocity to the true one, and of the average after it."""
        c, size = self.config, batch.action.shape[0]
        time_key, noise_key, label_key = jax.random.split(key, 3)
        noise = jax.random.normal(noise_key, batch.action.shape, jnp.float32)
        if c.objective == "flow":
            time = jax.random.uniform(time_key, (size,), jnp.float32)
            share = time[:, None, None]
            chunk, target = (1.0 - share) * noise + share * batch.action, batch.action - noise
        else:
            step = jax.random.randint(time_key, (size,), 1, c.denoising_steps + 1)
            time = jnp.float32(step / c.denoising_steps)
            alpha, sigma = (jnp.float32(x)[step][:, None, None] for x in (self.alpha, self.sigma))
            chunk, target = alpha * batch.action + sigma * noise, alpha * noise - sigma * batch.action
        withheld = jax.random.uniform(label_key, (size,), jnp.float32) < c.label_dropout
        label = jnp.where(withheld, c.labels, batch.label)

        def loss(params: PyTree) -> jax.Array:
            features = self.features(params, batch.obs)
            error = jnp.square(self.velocity(params, chunk, time, features, label) - target).mean((1, 2))
            return (batch.weight * error).sum() / jnp.maximum(jnp.abs(batch.weight).sum(), 1e-6)

        error, gradient = jax.value_and_grad(loss)(learner.params["policy"])
        learner = learner.descend("policy", devices.mean(gradient), self.optimizers(hyper)["policy"])
        return learner.move_target("policy", hyper.average_rate), {"loss/policy": error}

    def _condition(self, features: jax.Array, label: jax.Array | None) -> jax.Array:
        """Condition of the network: the features, and the label one-hot (all zeros for none)."""
        if not self.config.labels:
            return features
        label = jnp.full(features.shape[:-1], self.config.labels) if label is None else label
        return jnp.concatenate([features, jax.nn.one_hot(label, self.config.labels, dtype=jnp.float32)], axis=-1)


def cosine_schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the action, α, and of the noise, σ, after 0 … `steps` steps: [steps + 1] each, with α² + σ² = 1."""
    angle = (np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2
    alpha = np.cos(angle) / np.cos(angle[0])
    return np.clip(alpha, 0.0, 1.0), np.sqrt(np.clip(1.0 - alpha**2, 0.0, 1.0))


def chunked_policy(agent: Agent, env: Environment, variables: PyTree, chunk_of: Callable | None = None) -> Policy:
    """The policy of a denoiser, or of an agent that chooses its noise.

    Args:
      variables: "params", "obs_statistics" and "action_range", what -1 and 1 are in units of `env`; and what
        `chunk_of` needs.
      chunk_of: `(variables, obs, key, deterministic) -> [..., executed, d]`, of histories of normalised observations;
        None samples from noise 0 if deterministic, else from N(0, I).
    """
    c = agent.config

    def sampled(variables: PyTree, obs: PyTree, key: Key, deterministic: bool) -> jax.Array:
        shape = (*batch_shape(agent.seen_space, obs), *agent.chunk_shape)
        noise = jnp.zeros(shape, jnp.float32) if deterministic else jax.random.normal(key, shape, jnp.float32)
        return agent.sample_chunk(variables["params"], obs, noise, agent.label(obs))[..., : c.executed, :]

    return in_turn(env, c.history, c.executed, c.normalize_observation, variables, chunk_of or sampled)


def in_turn(
    env: Environment, length: int, executed: int, normalize: bool, variables: PyTree, chunk_of: Callable
) -> Policy:
    """A policy that predicts a chunk of actions, executes them one by one, and predicts the next chunk.

    Args:
      length: observations that a chunk depends on; the first one stands in for earlier ones.
      executed: actions of a chunk that are executed.
      normalize: whether observations are normalised before `chunk_of` sees them.
      variables: "action_range", what -1 and 1 are in units of `env`; "obs_statistics" of one observation, to normalise;
        and what `chunk_of` needs.
      chunk_of: `(variables, obs, key, deterministic) -> [..., executed, d]` in [-1, 1], of histories of observations.
    """
    rescale, size, space = RescaleAction(env).rescale, env.action_space.shape[0], env.observation_space  # type: ignore[union-attr]
    memory = {
        "obs": example(history.space_of(space, length)),
        "chunk": jnp.zeros((executed, size), jnp.float32),
        "step": jnp.int32(-1),  # of the chunk; -1 before the first observation
    }

    def act(
        variables: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool
    ) -> tuple[jax.Array, PyTree, PyTree]:
        obs, step = as_given(space, obs), memory["step"]
        if normalize:
            obs = running_statistics.normalize(variables["obs_statistics"], obs)
        # The first observation stands in for earlier ones.
        past = chosen(step < 0, history.beginning(space, obs, length), history.pushed(memory["obs"], obs, length))
        due = (step < 0) | (step >= executed)

        def ask(_: jax.Array) -> jax.Array:
            return chunk_of(variables, past, key, deterministic)

        # While all episodes are in step, most calls need no new chunk.
        fresh = jax.lax.cond(due.any(), ask, lambda chunk: chunk, memory["chunk"])
        chunk = jnp.where(due[..., None, None], fresh, memory["chunk"])
        step = jnp.where(due, 0, step)
        action = jnp.take_along_axis(chunk, step[..., None, None], axis=-2)[..., 0, :]
        return rescale(action, variables["action_range"]), {"obs": past, "chunk": chunk, "step": step + 1}, ()

    return Policy(variables, memory, act)


def make(
    env: Environment,
    config: Config | None = None,
    dataset: Dataset | Prepared | None = None,
    *,
    label: Any = None,
    weight: Any = None,
    network: nn.Module | None = None,
) -> Algorithm:
    """A diffusion or flow policy of a dataset; steering.py learns online from it.

    Args:
      env: the task; used for its spaces and for evaluation.
      config: settings; the defaults where None.
      dataset: what to imitate; without one, the algorithm can only load a policy.
      label, weight: label, i32 [N], and weight, [N], of the chunk that begins at each step of the dataset; a weight
        below 0 pushes the policy away from the chunk. All 0 and all 1 where not given.
      network: a flax module in place of convolutions (see `nn.encoder.encode`), of histories of observations.

    Raises:
      Refused: the environment's spaces do not fit, or the dataset does not fit them.
    """
    c = config or Config()
    continuous(env, "diffusion")
    prepared = prepare(dataset, env.observation_space, env.action_space, c, c.action_normalization)
    if isinstance(prepared.dataset, Dataset):
        prepared = dataclasses.replace(
            prepared, dataset=Chunks.of(prepared.dataset, c.history, c.horizon, label, weight)
        )
    algorithm = assemble("diffusion", env, c, Agent, make, prepared, network=network)
    agent: Any = algorithm.agent
    action_range = RescaleAction(env, prepared.actions).onto

    def policy(state: Any) -> Policy:
        params, statistics = state.learner.targets["policy"], state.obs_statistics
        variables = {"params": params, "obs_statistics": statistics, "action_range": action_range}
        return chunked_policy(agent, env, variables)

    return algorithm._replace(policy=policy)
