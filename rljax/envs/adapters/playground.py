"""Tasks of MuJoCo Playground: `make("playground:CheetahRun")` (Zakka et al. 2025, arXiv 2502.08844)."""

from typing import Any

import jax
import numpy as np

from rljax.envs.adapters.brax import BraxEnvironment
from rljax.envs.adapters.common import import_package, unknown_name
from rljax.envs.environment import Environment, State
from rljax.envs.wrappers import TimeLimit
from rljax.types import Refused

_INSTALL = '"rljax[playground]"'


class PlaygroundEnvironment(BraxEnvironment):
    """A raw Playground environment; its state and functions are Brax's, and the same holds for them.

    Its `done` is `terminated`. That includes a simulation that has diverged, which Playground ends at its first NaN; of
    such a step no NaN reaches a value target (see `Guard`). The repetition of actions that Playground's training
    settings ask for is left to `ActionRepeat`.
    """

    def render(self, state: State) -> np.ndarray:
        return np.asarray(self.env.render(state.physics))


def make(
    name: str,
    *,
    impl: str | None = None,
    config_overrides: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Environment:
    """Makes a Playground task with the time limit of its configuration (`episode_length`).

    Tasks of robots that are not in the package make Playground download MuJoCo Menagerie at their first use.

    Args:
      impl: MJX's engine, "jax" or "warp"; where None, "jax" on a CPU (Warp is slow there), else the task's own.
      config_overrides: settings of the task's configuration by their path, e.g. {"ctrl_dt": 0.02}.
      max_episode_steps: replaces the time limit; None or 0 for none.

    Raises:
      ValueError: Playground is missing, or does not know the task or a setting.
    """
    unexpected = kwargs.keys() - {"max_episode_steps"}
    if unexpected:
        raise Refused(
            f"playground:{name}: got unexpected {', '.join(sorted(unexpected))}; "
            "it takes: impl, config_overrides, max_episode_steps"
        )
    registry = import_package("playground", "mujoco_playground", _INSTALL).registry
    try:
        config = registry.get_default_config(name).lock()
    except ValueError:
        raise unknown_name("playground", name, registry.ALL_ENVS) from None
    overrides = dict(config_overrides or {})
    if impl is None and "impl" not in overrides and jax.default_backend() == "cpu":
        impl = "jax"
    if impl is not None:
        overrides["impl"] = impl
    try:
        config.update_from_flattened_dict(overrides)
    except (KeyError, TypeError) as error:
        raise Refused(f"playground:{name}: config_overrides: {error.args[0]}") from error
    env = PlaygroundEnvironment(registry.load(name, config=config), f"playground:{name}")
    limit = kwargs.get("max_episode_steps", config.episode_length)
    return TimeLimit(env, limit) if limit else env
