"""PPO of sbx (stable-baselines3 with its updates in JAX) with its defaults."""

import common
import stable_baselines
from sbx import PPO

if __name__ == "__main__":
    common.run(
        "ppo",
        "sbx",
        ("sbx-rl", "stable-baselines3", "jax", "jaxlib"),
        lambda arguments: stable_baselines.train(PPO, arguments, compiles=True),
    )
