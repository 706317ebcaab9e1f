"""DQN of sbx (stable-baselines3 with its updates in JAX) with the settings in `off_policy.py`, else its defaults."""

import off_policy
import stable_baselines
from sbx import DQN

if __name__ == "__main__":
    off_policy.run(
        "dqn",
        "sbx",
        ("sbx-rl", "stable-baselines3", "jax", "jaxlib"),
        lambda *training: stable_baselines.train_off_policy(DQN, *training, compiles=True),
    )
