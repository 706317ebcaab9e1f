"""TD3 of stable-baselines3 (PyTorch) with the settings in `off_policy.py`, else its defaults."""

import off_policy
import stable_baselines
from stable_baselines3 import TD3

if __name__ == "__main__":
    off_policy.run(
        "td3",
        "stable-baselines3",
        ("stable-baselines3", "torch"),
        lambda *training: stable_baselines.train_off_policy(TD3, *training, compiles=False),
    )
