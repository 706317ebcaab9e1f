"""What returns mean: between a random policy's and one at which a task counts as solved."""

import jax

from rljax.envs.environment import Environment
from rljax.envs.registry import canonical
from rljax.policy import Policy
from rljax.training.evaluate import evaluate
from rljax.types import Key, PyTree, Refused


def solved_return(name: str) -> float:
    """The return at which a task counts as solved: Gymnasium's `reward_threshold`, of the newest version that has one.

    Raises:
      Refused: it has none.
    """
    import gymnasium

    found = [
        (spec.version or 0, spec.reward_threshold)
        for spec in gymnasium.registry.values()
        if spec.reward_threshold is not None and canonical(spec.id) == canonical(name)
    ]
    if not found:
        raise Refused(f"{name} has no return at which it counts as solved: give one, as in --solved {name}=100")
    return float(max(found)[1])


def random_return(env: Environment, episodes: int = 100, seed: int = 0) -> float:
    """The mean return of actions drawn uniformly from the space of actions."""

    def act(_: PyTree, key: Key, obs: PyTree, memory: PyTree, deterministic: bool) -> tuple[jax.Array, PyTree, PyTree]:
        count = jax.tree.leaves(obs)[0].shape[0]
        return jax.vmap(env.action_space.sample)(jax.random.split(key, count)), memory, ()

    play = jax.jit(lambda key: evaluate(env, Policy((), (), act), key, episodes, deterministic=False))
    return float(play(jax.random.key(seed)).returns.mean())


def normalized(value: float, random: float, solved: float) -> float:
    """A return on the scale on which 0 is a random policy's and 1 a solved task."""
    return (value - random) / (solved - random)
