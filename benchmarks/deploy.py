"""Benchmark of exported policies: how long one action takes, and how far it is from the policy's.

    python -m benchmarks.deploy                      # about four minutes on two cores

Networks are freshly initialised: the time of an action does not depend on their weights. Each is exported and checked
as `rljax.export` does it, on 1,000 observations of its task. Beside them, where it is installed, stands the `predict`
of stable-baselines3, of networks as wide, in the same process and on one thread.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from benchmarks import campaign
from rljax.algorithms import diffusion, dqn, dsrl, iql, ppo, sac, steering, td3
from rljax.deploy.verify import latency
from rljax.policy import Policy
from rljax.spaces import Discrete

ROBOT, WIDE = "half_cheetah", (256, 256)
SAMPLER = diffusion.Config(width=256, blocks=2)
CASES: dict[str, tuple[Any, Any, str]] = {
    "PPO": (ppo, ppo.Config(hidden=WIDE, normalize_observation=True), ROBOT),
    "PPO, GRU of 256": (ppo, ppo.Config(hidden=WIDE, memory=256, normalize_observation=True), ROBOT),
    "PPO, pixels": (
        ppo,
        ppo.Config(hidden=WIDE, cnn_channels=(16, 32), cnn_kernels=(4, 4), cnn_strides=(4, 2)),
        "catch",
    ),
    "SAC": (sac, sac.Config(hidden=WIDE, normalize_observation=True), ROBOT),
    "TD3": (td3, td3.Config(hidden=WIDE), ROBOT),
    "DQN": (dqn, dqn.Config(hidden=WIDE), "cartpole"),
    "IQL": (iql, iql.Config(hidden=WIDE), ROBOT),
    "diffusion": (diffusion, SAMPLER, ROBOT),
    "diffusion, steered": (steering, dsrl.Config(sampler=SAMPLER, hidden=WIDE), ROBOT),
}
PEERS = {"PPO": "PPO", "SAC": "SAC", "TD3": "TD3", "DQN": "DQN"}
FORMS = {"StableHLO": ".stablehlo", "ONNX": ".onnx", "C": ".h"}


@dataclasses.dataclass(frozen=True)
class Settings(campaign.Settings):
    """Settings of the benchmark."""

    cases: tuple[str, ...] = tuple(CASES)
    """Policies that are measured."""


def policy_of(name: str) -> tuple[Policy, Any]:
    """A policy of a case, with normal numbers added to all parameters, so that none is 0; and its environment."""
    module, config, task = CASES[name]
    env = rljax.make(task)
    algorithm = module.make(env, config)
    policy = jax.jit(lambda key: algorithm.policy(algorithm.init(key)))(jax.random.key(0))

    def moved(x: jax.Array) -> jax.Array:
        normal = jax.random.normal(jax.random.key(1), x.shape, jnp.float32)
        return x + 0.02 * normal if jnp.issubdtype(x.dtype, jnp.floating) else x

    return policy.replace(variables=jax.tree.map(moved, policy.variables)), env


def measure(name: str) -> dict[str, Any]:
    """A row of the table."""
    policy, env = policy_of(name)
    row: dict[str, Any] = {"policy": name, **own_calls(policy, env)}
    sizes, gaps = [], []
    with tempfile.TemporaryDirectory() as folder:
        for form, suffix in FORMS.items():
            made = rljax.export(policy, Path(folder) / f"policy{suffix}", env=env)
            row[form] = "–" if made.latency_us is None else f"{made.latency_us:.3g}"
            sizes.append(f"{made.size / 1000:,.0f}")
            gaps.append("–" if made.difference is None else f"{made.difference:.1g}")
    row["stable-baselines3"] = peer(PEERS[name], env) if name in PEERS else "–"
    row["kB of the three files"], row["largest difference of the three"] = ", ".join(sizes), ", ".join(gaps)
    return row


def own_calls(policy: Policy, env: Any) -> dict[str, str]:
    """The times of `policy(key, obs)`, or of `policy.apply` with a memory, and of a compiled one that holds it."""
    key, obs = jax.random.key(0), jax.jit(env.reset)(jax.random.key(1)).obs
    obs, memory = jax.tree.map(lambda x: np.asarray(x)[None], (obs, policy.initial_memory))
    closed = jax.jit(lambda obs, memory: policy.apply(key, obs, memory)[:2])
    if jax.tree.leaves(memory):
        apply = jax.jit(lambda policy, key, obs, memory: policy.apply(key, obs, memory)[:2])
        call: Callable[[], Any] = lambda: np.asarray(apply(policy, key, obs, memory)[0])  # noqa: E731
    else:
        call = lambda: np.asarray(policy(key, obs))  # noqa: E731
    held = latency(lambda: np.asarray(closed(obs, memory)[0]))
    return {"policy(key, obs)": f"{latency(call):.3g}", "jit": f"{held:.3g}"}


def peer(name: str, env: Any) -> str:
    """The time of a model's `predict`, for the spaces of an environment; – where stable-baselines3 is missing."""
    try:
        import gymnasium
        import stable_baselines3
        import torch
    except ImportError:
        return "–"
    torch.set_num_threads(1)
    space = env.action_space
    obs = gymnasium.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
    if isinstance(space, Discrete):
        actions: Any = gymnasium.spaces.Discrete(space.n)
    else:
        actions = gymnasium.spaces.Box(space.low, space.high, dtype=np.float32)

    class Spaces(gymnasium.Env):
        observation_space, action_space = obs, actions

    model = getattr(stable_baselines3, name)(
        "MlpPolicy", Spaces(), policy_kwargs={"net_arch": list(WIDE)}, device="cpu"
    )
    seen = np.zeros(obs.shape, np.float32)
    return f"{latency(lambda: model.predict(seen, deterministic=True)):.3g}"


NOTES = (
    "Microseconds of one action for one observation, on the CPU: the median of the quietest of five stretches of time. "
    "ONNX by onnxruntime on one thread, C with -O2, "
    "called in C; the others from Python, with JAX's own threads, results as NumPy arrays. All policies have "
    "layers of 256, and see and move half_cheetah (17 numbers, 6 actions), but for pixels (catch, 32 × 32) and DQN "
    "(cartpole). With a memory, `policy(key, obs)` is a compiled `policy.apply`; of a diffusion policy it is a call "
    "that predicts a chunk, by 8 evaluations of its network, which one in 4 calls does. Largest differences are those "
    "of actions, in the task's units, on 1,000 observations, for DQN the share of actions that differ. "
    "stable-baselines3 is `predict` of a model with as wide layers, without normalisation, on one thread."
)


def main(settings: Settings) -> None:
    campaign.require_known("cases", settings.cases, CASES)
    rows = []
    for name in settings.cases:
        rows.append(measure(name))
        campaign.show(rows[-1])
    title = f"Exported policies, {jax.default_backend()}: µs of one action"
    campaign.write(settings, "deploy", campaign.table("deploy", title, rows, NOTES))


if __name__ == "__main__":
    campaign.main(main, Settings())
