"""DQN of stable-baselines3 (PyTorch) with the settings in `off_policy.py`, else its defaults."""

import off_policy
import stable_baselines
from stable_baselines3 import DQN

if __name__ == "__main__":
    off_policy.run(
        "dqn",
        "stable-baselines3",
        ("stable-baselines3", "torch"),
        lambda *training: stable_baselines.train_off_policy(DQN, *training, compiles=False),
    )
