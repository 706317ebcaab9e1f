"""SAC of stable-baselines3 (PyTorch) with the settings in `off_policy.py`, else its defaults."""

import off_policy
import stable_baselines
from stable_baselines3 import SAC

if __name__ == "__main__":
    off_policy.run(
        "sac",
        "stable-baselines3",
        ("stable-baselines3", "torch"),
        lambda *training: stable_baselines.train_off_policy(SAC, *training, compiles=False),
    )
