"""PPO of Brax on Brax's own robots, which are not Gymnasium's: other bodies, rewards and observations, own physics.

Runs in rljax's own environment, which has Brax. The learning settings are those of Brax's training notebook for
HalfCheetah with its 2048 environments and its batches made smaller alike; the networks are as wide as those of the
other peers. Like them it trains on the CPU, unless --accelerator is given.

Brax's trainer calls `jax.device_put_replicated`, which jax no longer has; it is given back below.
"""

import argparse
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import record
from brax import envs
from brax.training.acting import Evaluator
from brax.training.agents.ppo import networks
from brax.training.agents.ppo import train as ppo
from jax.sharding import Mesh, NamedSharding, PartitionSpec

TASKS = {"half_cheetah": "halfcheetah"} | {
    name: name
    for name in (
        "hopper",
        "walker2d",
        "ant",
        "humanoid",
        "reacher",
        "pusher",
        "inverted_pendulum",
        "inverted_double_pendulum",
    )
}
SETTINGS: dict[str, Any] = {
    "episode_length": 1000,
    "unroll_length": 20,
    "num_minibatches": 32,
    "num_updates_per_batch": 8,
    "learning_rate": 3e-4,
    "discounting": 0.95,
    "entropy_cost": 1e-3,
    "normalize_observations": True,
}
HIDDEN = (64, 64)
# Brax reports after each epoch. What the first took beyond the median of the others is counted as compilation; that of
# its reset, before the first, is not counted.
EPOCHS = 10


def device_put_replicated(tree: Any, devices: list[jax.Device]) -> Any:
    """A copy of every array for each device, along a new first axis: what jax once had by this name."""
    # The axis is named as in Brax's pmap: under another name the second epoch would be compiled again.
    sharding = NamedSharding(Mesh(np.array(devices), ("i",)), PartitionSpec("i"))
    return jax.tree.map(lambda x: jax.device_put(jnp.stack([x] * len(devices)), sharding), tree)


def train(arguments: argparse.Namespace) -> record.Trained:
    """All of training, without Brax's evaluations in between. Brax rounds the steps up to whole epochs."""
    num_envs = arguments.num_envs
    batch_size = num_envs // 4  # in the notebook too
    steps_per_iteration = batch_size * SETTINGS["num_minibatches"] * SETTINGS["unroll_length"]
    epochs = max(3, min(EPOCHS, -(-arguments.steps // steps_per_iteration)))
    ends: list[tuple[int, float]] = []
    make_policy, params, _ = ppo.train(
        environment=envs.get_environment(TASKS[arguments.task], backend=arguments.backend),
        num_timesteps=arguments.steps,
        num_envs=num_envs,
        batch_size=batch_size,
        num_evals=epochs + 1,  # it counts one before training
        run_evals=False,
        num_eval_envs=1,  # made and reset all the same
        progress_fn=lambda step, metrics: ends.append((step, metrics["training/walltime"])),
        network_factory=lambda *args, **kwargs: networks.make_ppo_networks(
            *args, **kwargs, policy_hidden_layer_sizes=HIDDEN, value_hidden_layer_sizes=HIDDEN
        ),
        seed=arguments.seed,
        **SETTINGS,
    )
    seconds = np.diff([0.0, *(end for _, end in ends)])
    compile_seconds = max(0.0, float(seconds[0] - np.median(seconds[1:])))
    return record.Trained(
        act=make_policy(params, deterministic=True),
        steps=ends[-1][0],
        compile_seconds=compile_seconds,
        training_seconds=float(seconds.sum()) - compile_seconds,
        config={**SETTINGS, "batch_size": batch_size, "hidden": HIDDEN, "backend": arguments.backend},
    )


def evaluate(arguments: argparse.Namespace, policy: Any) -> list[float]:
    """Undiscounted return of each episode."""
    env = envs.get_environment(TASKS[arguments.task], backend=arguments.backend)
    evaluator = Evaluator(
        envs.training.wrap(env, episode_length=SETTINGS["episode_length"]),
        lambda _: policy,
        num_eval_envs=arguments.episodes,
        episode_length=SETTINGS["episode_length"],
        action_repeat=1,
        key=jax.random.PRNGKey(record.EVALUATION_SEED),
    )
    return evaluator.run_evaluation((), {}, aggregate_episodes=False)["eval/episode_reward"].tolist()


def main() -> None:
    parser = record.parser("Trains PPO of Brax and writes what it measured.", TASKS, task="half_cheetah", num_envs=64)
    parser.add_argument("--backend", choices=("spring", "mjx"), default="spring", help="Brax's physics")
    parser.add_argument("--accelerator", action="store_true", help="train where JAX runs by itself, not on the CPU")
    arguments = parser.parse_args()
    if arguments.num_envs % 4:
        parser.error(f"--num-envs {arguments.num_envs} is not allowed: a multiple of 4, for batches of a quarter")
    warnings.filterwarnings("ignore", "Brax System, piplines and environments are not actively")
    if not arguments.accelerator:
        jax.config.update("jax_platforms", "cpu")
    if not hasattr(jax, "device_put_replicated"):
        jax.device_put_replicated = device_put_replicated
    trained = train(arguments)
    record.write(
        arguments,
        trained,
        lambda: evaluate(arguments, trained.act),
        ("brax", "jax", "jaxlib", "flax", "mujoco", "mujoco-mjx", "numpy"),
        algorithm="ppo",
        engine=f"brax {arguments.backend}",
        implementation="brax",
        note="Brax's own robot of this name, not Gymnasium's v5: its returns are not comparable",
    )


if __name__ == "__main__":
    main()
