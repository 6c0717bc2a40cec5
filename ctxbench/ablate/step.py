"""What decides the numbers of a training: one step of the optimiser, and the evaluation.

Together with the recipe, the network and the data this is all that a result depends on; how a
trial is saved, resumed or shared out is elsewhere.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from ctxbench.ablate.recipe import Recipe
from ctxbench.data._keys import key
from ctxbench.data.batches import Batch
from ctxbench.models._spec import Loss

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Objective(nn.Module):
    """A network and its loss as one module, which can be compiled and distributed.

    Shape: images (B, C, H, W), target (B,) or (B, classes) -> scalar.
    """

    def __init__(self, model: nn.Module, loss: Loss | None, smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.loss = loss or cross_entropy
        self.smoothing = smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss that the network is trained with."""
        shares = target.ndim > 1
        if shares:
            target = smoothed(target, self.smoothing)
        return self.loss(self.model, x, target, smoothing=0.0 if shares else self.smoothing)


def cross_entropy(model: Any, x: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return the loss of a network that has none of its own."""
    return F.cross_entropy(model(x), target, label_smoothing=smoothing)


def smoothed(shares: Tensor, smoothing: float) -> Tensor:
    """Give each class its part of `smoothing`; shares (B, classes) stay shares."""
    return shares * (1 - smoothing) + smoothing / shares.shape[1]


class Stepper:
    """A network, its optimiser, scaler and averaged weights, and how a step changes them.

    `wrap` turns the objective into what is called in training: compiled, distributed, or itself.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None,
        recipe: Recipe,
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module] = lambda objective: objective,
    ) -> None:
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.recipe, self.device, self.layout = recipe, device, layout
        self.model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        self.optimiser = make_optimiser(self.model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        self.average = _averaged(self.model, recipe.ema) if recipe.ema else None
        self.objective = wrap(Objective(self.model, loss, recipe.label_smoothing)).train()

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the forward pass runs."""
        if self.recipe.amp == "none":
            return nullcontext()
        return torch.autocast(self.device.type, _AMP[self.recipe.amp])

    def place(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Bring a batch to the device, in the layout of the network."""
        x = batch.images.to(self.device, memory_format=self.layout, non_blocking=True)
        return x, batch.target.to(self.device, non_blocking=True)

    def step(self, batch: Batch, *, lr: float, seed: int) -> Tensor:
        """Take one step of the optimiser and return the mean loss before it, a scalar.

        Whatever is random in it is a function of `seed`: a resumed training needs no other state.
        """
        set_seed(seed)
        if not (self.objective.training and self.model.training):
            self.objective.train()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        x, target = self.place(batch)
        total = torch.zeros((), device=self.device)
        size = -(-len(x) // self.recipe.accumulate)
        parts = list(zip(torch.split(x, size), torch.split(target, size), strict=True))
        for part_x, part_target in parts:
            last = part_x is parts[-1][0]
            share = len(part_x) / len(x)
            with self._synchronised(last), self.autocast():
                loss = self.objective(part_x, part_target) * share
            self.scaler.scale(loss).backward()
            total += loss.detach()
        if self.recipe.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return total

    def _synchronised(self, last: bool) -> AbstractContextManager[object]:
        """Let processes exchange their gradients with the last part of a batch only."""
        wait = getattr(self.objective, "no_sync", None)
        return nullcontext() if last or wait is None else wait()

    @property
    def evaluated(self) -> nn.Module:
        """The network whose error counts: that of the averaged weights, if there are some."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, besides its position and the data."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up a state that `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


@dataclass(frozen=True, slots=True)
class Sums:
    """What an evaluation adds up: (4,) losses, wrong top-1, wrong top-5 answers, and images."""

    values: Tensor

    @property
    def loss(self) -> float:
        """The mean cross entropy."""
        return self._mean(0)

    @property
    def top1_error(self) -> float:
        """The share of images whose likeliest class is wrong, in %."""
        return 100 * self._mean(1)

    @property
    def top5_error(self) -> float:
        """The share of images whose class is not among the likeliest five, in %."""
        return 100 * self._mean(2)

    def _mean(self, index: int) -> float:
        images = float(self.values[3])
        return float(self.values[index]) / images if images else float("nan")


@torch.no_grad()
def evaluate(stepper: Stepper, batches: Iterable[Batch]) -> Sums:
    """Add up losses and errors over batches, in evaluation mode; the training mode comes back."""
    model = stepper.evaluated
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=stepper.device)
    try:
        for batch in batches:
            x, target = stepper.place(batch)
            with stepper.autocast():
                logits = model(x)
            sums += _sums_of(logits.float(), target)
    finally:
        model.train(was_training)
    return Sums(sums)


def _sums_of(logits: Tensor, target: Tensor) -> Tensor:
    likeliest = logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]
    right = likeliest[:, 0].sum(), likeliest.sum()
    losses = F.cross_entropy(logits.double(), target, reduction="sum")
    return torch.stack(
        [losses, len(target) - right[0], len(target) - right[1], losses * 0 + len(target)]
    )


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe; without `decay_vectors`, biases and norms do not decay."""
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    for parameter in model.parameters():
        is_vector = parameter.ndim <= 1 and not recipe.decay_vectors
        (vectors if is_vector else matrices).append(parameter)
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, **settings)
    return torch.optim.SGD(groups, **settings, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return running averages of weights and statistics that forget the first steps quickly."""

    @torch.no_grad()
    def update(averages: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:
                average.copy_(value)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def set_seed(seed: int) -> None:
    """Make everything random that follows a function of `seed`.

    `torch.manual_seed` visits every kind of device that there may be, which takes half a
    millisecond at every step.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Return the seed of one step of a trial; each process has its own."""
    return key(seed, epoch, step, rank)


def step_lr(recipe: Recipe, epoch: float, seconds: float) -> float:
    """Return the learning rate of a step, `epoch` epochs and `seconds` of training in."""
    if epoch < recipe.warmup_epochs:
        rise = epoch / recipe.warmup_epochs
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * rise
    if recipe.schedule == "step":
        passed = sum(epoch >= milestone for milestone in recipe.milestones)
        return max(recipe.lr * recipe.decay**passed, recipe.min_lr)
    if recipe.schedule == "constant":
        return recipe.lr
    done = seconds / 60 / recipe.minutes if recipe.minutes else epoch / recipe.epochs
    share = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * share
