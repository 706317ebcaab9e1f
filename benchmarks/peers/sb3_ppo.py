"""PPO of stable-baselines3 (PyTorch) with its defaults."""

import common
import stable_baselines
from stable_baselines3 import PPO

if __name__ == "__main__":
    common.run(
        "ppo",
        "stable-baselines3",
        ("stable-baselines3", "torch"),
        lambda arguments: stable_baselines.train(PPO, arguments, compiles=False),
    )
