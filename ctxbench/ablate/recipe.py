"""How a network is trained: every field is a key of `[recipe]` in an experiment file."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """Optimiser, schedule and precision of a training.

    `minutes` of training, where given, end it instead of `epochs`, and the schedule follows them.
    The network is evaluated `evaluations` times an epoch, at equal distances.
    `batch` is what one step of the optimiser sees, over all processes and accumulated parts. The
    learning rate rises linearly from `warmup_lr` for `warmup_epochs`, follows `schedule` down to
    `min_lr`, and stays there for `cooldown_epochs` more; `milestones` are the epochs before which
    schedule=step multiplies it with `decay`. `ema` is the decay of the averaged weights, which are
    then the ones evaluated; it rises to its value as the steps allow. `decay_vectors` is whether
    biases and norms are decayed too. `clip` limits the norm of the gradient; 0 is off.
    """

    epochs: int = 10
    minutes: float | None = None
    evaluations: int = 1
    batch: int = 128
    accumulate: int = 1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_vectors: bool = True
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    cooldown_epochs: int = 0
    clip: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    amp: Literal["none", "bf16", "fp16"] = "none"
    channels_last: bool = False
    compile: bool = False
    sync_norm: bool = False

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value} is out of range. Give {low:g} to {high:g}.")
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch={self.batch} cannot be cut into accumulate={self.accumulate} equal parts."
            )
        if self.schedule == "step" and self.minutes is not None:
            raise ValueError("schedule=step counts epochs, not minutes. Use schedule=cosine.")
        if self.schedule != "step" and self.milestones:
            raise ValueError(f"milestones need schedule=step; this is schedule={self.schedule}.")
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise ValueError("nesterov=true needs optimiser=sgd with momentum.")
        if self.warmup_epochs > self.epochs and self.minutes is None:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} is longer than epochs={self.epochs}."
            )

    @property
    def all_epochs(self) -> int:
        """How many epochs there are, the cool-down included."""
        return self.epochs + self.cooldown_epochs


_MANY = 10**6
_RANGES = (
    ("epochs", 1, _MANY), ("minutes", 0.001, _MANY), ("evaluations", 1, _MANY),
    ("batch", 1, _MANY), ("accumulate", 1, _MANY),
    ("lr", 0, 1000), ("momentum", 0, 1), ("weight_decay", 0, 1000), ("decay", 0, 1),
    ("warmup_epochs", 0, _MANY), ("warmup_lr", 0, 1000), ("min_lr", 0, 1000),
    ("cooldown_epochs", 0, _MANY), ("clip", 0, _MANY), ("label_smoothing", 0, 0.999),
    ("ema", 0, 0.9999999),
)  # fmt: skip
