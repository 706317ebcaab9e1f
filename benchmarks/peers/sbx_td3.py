"""TD3 of sbx (stable-baselines3 with its updates in JAX) with the settings in `off_policy.py`, else its defaults."""

import off_policy
import stable_baselines
from sbx import TD3

if __name__ == "__main__":
    off_policy.run(
        "td3",
        "sbx",
        ("sbx-rl", "stable-baselines3", "jax", "jaxlib"),
        lambda *training: stable_baselines.train_off_policy(TD3, *training, compiles=True),
    )
