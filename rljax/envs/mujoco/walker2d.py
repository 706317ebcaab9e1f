"""Walker2d-v5: a planar two-legged robot walks forward without falling."""

from typing import Any, ClassVar

from rljax.envs.mujoco.hopper import Hopper


class Walker2d(Hopper):
    """Gymnasium's Walker2d-v5: observation [17], action [6]; a hopper's rules with wider ranges."""

    camera: ClassVar[dict[str, Any]] = {
        "trackbodyid": 2,
        "distance": 4.0,
        "lookat": (0.0, 0.0, 1.15),
        "elevation": -20.0,
    }
    file = "walker2d_v5.xml"

    def __init__(
        self,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (0.8, 2.0),
        healthy_angle_range: tuple[float, float] = (-1.0, 1.0),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
        **engine: Any,
    ):
        super().__init__(
            forward_reward_weight,
            ctrl_cost_weight,
            healthy_reward,
            terminate_when_unhealthy,
            (-float("inf"), float("inf")),
            healthy_z_range,
            healthy_angle_range,
            reset_noise_scale,
            exclude_current_positions_from_observation,
            **engine,
        )
