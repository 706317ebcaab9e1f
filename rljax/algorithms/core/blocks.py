"""Settings that several algorithms have, as bases of their configs.

A block has no base but `Config` or a smaller block: `dataclasses` copies the fields of each base as a whole, so that
defaults of any other base would overwrite what a sibling of the block has set.
"""

import dataclasses

from rljax.config import Config, Positive, Whole, Widths, require
from rljax.nn.encoder import Fusion
from rljax.nn.networks import Activation
from rljax.nn.precision import Precision


@dataclasses.dataclass(frozen=True)
class Optimizer(Config):
    """Settings of an optimizer and its schedule."""

    learning_rate: Positive = 3e-4
    """Initial step size of the optimizer."""
    anneal_steps: Whole = 0
    """Environment steps (offline, updates) over which the learning rates fall linearly to 0; 0 keeps them constant."""
    also_annealed: tuple[str, ...] = ()
    """Hyperparameters that fall linearly to 0 over anneal_steps beside the learning rates, such as clip_range."""


@dataclasses.dataclass(frozen=True)
class Temperature(Config):
    """Settings of an entropy bonus whose weight, the temperature α, tunes itself (arXiv 1812.05905, eq. 18)."""

    temperature_learning_rate: Positive = 3e-4
    """Learning rate of the temperature."""
    learn_temperature: bool = True
    """Whether the temperature α follows the target entropy, or stays at initial_temperature."""
    initial_temperature: Positive = 1.0
    """Temperature α at the start; sweep it to compare fixed temperatures."""
    target_entropy_per_dim: float = -1.0
    """Target entropy in nats for each dimension of an action in [-1, 1]: -1 (Haarnoja et al. 2018) or -0.5 (Brax)."""


@dataclasses.dataclass(frozen=True)
class DenseNetwork(Config):
    """Settings of networks of dense layers."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    precision: Precision = "float32"
    """Precision of the hidden layers' matrix products; bfloat16 is faster on TPUs, GPUs and CPUs that have it."""


@dataclasses.dataclass(frozen=True)
class Encoding(Config):
    """Settings of the encoder of observations (see `nn.encoder.encode`)."""

    cnn_channels: Widths = (16,)
    """Channels of each convolution that an image passes through, as for MinAtar by default."""
    cnn_kernels: Widths = (3,)
    """Kernel widths of each convolution."""
    cnn_strides: Widths = (1,)
    """Strides of each convolution."""
    embedding_size: Whole = 0
    """Size of the learned vector of each choice or word in an observation; 0 puts a one among zeros."""
    fusion: Fusion = "concatenate"
    """Fusion of an observation's parts: their features side by side (concatenate), or each after a layer of its own, of
    the width of the first hidden layer and normalised (late), so that none drowns the others by its size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = len(self.cnn_channels)
        for name in ("cnn_kernels", "cnn_strides"):
            require(self, name, len(getattr(self, name)) == layers, f"of one length with cnn_channels, {layers}")


@dataclasses.dataclass(frozen=True)
class Parts(Config):
    """Settings that choose parts of an observation (`rljax.spaces.Dict`), named as in Brax and Playground."""

    policy_obs: tuple[str, ...] = ()
    """Parts of the observation that the policy sees; all but privileged_state where none is named."""


@dataclasses.dataclass(frozen=True)
class AsymmetricParts(Parts):
    """The same, with other parts for values."""

    value_obs: tuple[str, ...] = ()
    """Parts of the observation that values see, in training only; the policy's where none is named."""
