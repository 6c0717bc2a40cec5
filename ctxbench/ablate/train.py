"""One trial: a network trained with one seed, saved on the way, and continued where it stopped."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from ctxbench.ablate import checkpoint, distributed
from ctxbench.ablate.costs import costs_of
from ctxbench.ablate.device import device_of
from ctxbench.ablate.rows import TrialRow
from ctxbench.ablate.step import Stepper, Sums, evaluate, set_seed, step_lr, step_seed
from ctxbench.ablate.stopwatch import Stopwatch
from ctxbench.ablate.trial import (
    OUT_OF_MEMORY,
    InterruptedTrial,
    Progress,
    Run,
    Trial,
    TrialError,
)
from ctxbench.data import augment, batches, resolve
from ctxbench.data._spec import Data, Images, TensorImages
from ctxbench.data.batches import Batch, Reading
from ctxbench.errors import CtxbenchError
from ctxbench.latency.machine import is_out_of_memory, peak_resident_mib
from ctxbench.models import Network
from ctxbench.models import resolve as resolve_network

_MIB = 2**20
_TELL_S = 0.5
_PROBED = 1000  # training images, at most, that the training error is taken on
_CALMER = "Lower lr, clip the gradient, or use amp=none."
_EVALUATED = 256  # images at once, at least


@dataclass(slots=True)
class Position:
    """Where a training stands and what it has added up; with the stepper's state, all there is.

    `step` counts within the epoch; `losses` adds up the `parts` steps since the last evaluation;
    `over` says that the budget is spent. Times are those of training, evaluation left out: of the
    steps, of making their batches, and `seconds` in all.
    """

    epoch: int = 0
    step: int = 0
    over: bool = False
    losses: float = 0.0
    parts: int = 0
    steps: int = 0
    images: int = 0
    step_s: float = 0.0
    loader_s: float = 0.0
    seconds: float = 0.0
    resumed: int = 0
    broken: list[str] = field(default_factory=list)
    curve: dict[str, list[float]] = field(default_factory=dict)


def train(
    trial: Trial,
    folder: Path,
    run: Run,
    *,
    stop: Callable[[], bool],
    tell: Callable[[Progress], None],
) -> TrialRow:
    """Train a network, or go on with it, and return what came out.

    Continues from the checkpoint in `folder`, and ends with the weights there; the checkpoint
    stays until the row is safe. A training that cannot be finished is a row that says why.
    Raises: InterruptedTrial once `stop` says so and the step under way is finished and saved;
    RecordsError if nothing can be written to the folder.
    """
    try:
        return _Training(trial, folder, run, stop=stop, tell=tell).finish()
    except TrialError as error:
        return failed(trial, str(error), run)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        return failed(trial, f"{OUT_OF_MEMORY}: {first}", run)


def failed(trial: Trial, reason: str, run: Run) -> TrialRow:
    """Return the row of a trial that could not be finished."""
    return TrialRow(**_told(trial), status="failed", reason=reason, threads=run.threads)


def _told(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.id, "model": trial.model, "data": trial.data,
        "recipe": asdict(trial.recipe), "augmentation": asdict(trial.augmentation),
        "seed": trial.seed,
    }  # fmt: skip


class _Training:
    def __init__(
        self,
        trial: Trial,
        folder: Path,
        run: Run,
        *,
        stop: Callable[[], bool],
        tell: Callable[[Progress], None],
    ) -> None:
        self.trial, self.recipe, self.folder, self.run = trial, trial.recipe, folder, run
        self.stop, self.tell = stop, tell
        self.rank, self.world, _ = distributed.world()
        self.device = device_of(run.device)
        torch.set_num_threads(run.threads)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.data = resolve(trial.data, download=run.download).load()
        self.probe = probe_of(self.data.train, probed(self.data))
        self.transform = augment.training(self.data, trial.augmentation)
        self.plain = augment.evaluation(self.data, trial.augmentation)
        self.mix = augment.mixing(self.data, trial.augmentation)
        self.steps = batches.steps(self.data.train, self.recipe.batch)
        self.reading = Reading(
            self.recipe.batch, trial.seed, run.workers, self.rank, self.world, run.strict
        )
        set_seed(step_seed(trial.seed, 0, 0, 0))
        self.stepper = self._stepper(resolve_network(trial.model))
        self.at = Position()
        self.watch = Stopwatch(self.device)
        self.losses = torch.zeros((), dtype=torch.float64, device=self.device)
        self.saved_s = self.told_s = time.monotonic()
        state = checkpoint.load_checkpoint(folder, self.device)
        if state is not None:
            self._take_up(state)

    def finish(self) -> TrialRow:
        """Train to the end and return the row."""
        while not self.at.over or self.at.parts:
            self._train()
            self._look()
        sums = self._evaluate(self.data.validation)
        return self._row(sums)

    def _stepper(self, network: Network) -> Stepper:
        model = network.build()
        if self.recipe.sync_norm and self.world > 1:
            if self.device.type == "cpu":
                raise TrialError("sync_norm=true needs GPUs: torch synchronises norms there only.")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]

        def wrap(objective: nn.Module) -> nn.Module:
            shared = distributed.shared(objective, self.device)
            return torch.compile(shared) if self.recipe.compile else shared  # type: ignore[return-value]

        return Stepper(model, network.loss, self.recipe, self.device, wrap)

    def _train(self) -> None:
        """Take the steps up to the next evaluation."""
        at = self.at
        if at.over or self._is_due():  # saved behind its last step
            return
        loader = batches.training_batches(
            self.data.train, self.reading, self.transform, self.mix, epoch=at.epoch, start=at.step
        )
        began = time.monotonic()
        for batch in loader:
            with self.watch.running():
                self._step(batch)
            at.seconds += time.monotonic() - began
            if self._must_end() or self._is_due():
                return
            began = time.monotonic()

    def _is_due(self) -> bool:
        """Say whether it is time to evaluate."""
        at, often = self.at, min(self.recipe.evaluations, self.steps)
        return at.parts > 0 and at.step * often // self.steps > (at.step - 1) * often // self.steps

    def _step(self, batch: Batch) -> None:
        at = self.at
        lr = step_lr(self.recipe, at.epoch + at.step / self.steps, at.seconds)
        seed = step_seed(self.trial.seed, at.epoch, at.step, self.rank)
        self.losses += self.stepper.step(batch, lr=lr, seed=seed)
        at.step += 1
        at.parts += 1
        at.steps += 1
        at.images += self.recipe.batch
        at.loader_s += batch.seconds
        at.broken += [path for path in batch.broken if path not in at.broken]

    def _must_end(self) -> bool:
        """Between two steps: tell, save, stop if asked to; True when the minutes are over."""
        now, minutes = time.monotonic(), self.recipe.minutes
        if minutes is not None:  # the schedule follows them: all processes must have one clock
            self.at.seconds = distributed.from_rank0(self.at.seconds)
            self.at.over |= self.at.seconds >= 60 * minutes
        stop, save = distributed.any_of(self.stop(), now - self.saved_s >= self.run.checkpoint_s)
        if now - self.told_s >= _TELL_S:
            self.told_s = now
            self._tell()
        if stop or save:
            self._save()
        if stop:
            raise InterruptedTrial(f"Trial {self.trial.id} has stopped and saved where it is.")
        return self.at.over

    def _look(self) -> None:
        """Evaluate, and note how it went since the last time."""
        at = self.at
        self._share_losses()
        sums, probed = self._evaluate(self.data.validation), self._evaluate(self.probe)
        found = {
            "epoch": at.epoch + at.step / self.steps,
            "lr": self.stepper.optimiser.param_groups[0]["lr"],
            "train_loss": at.losses / max(at.parts, 1),
            "train_top1_error": probed.top1_error,
            "loss": sums.loss,
            "top1_error": sums.top1_error,
            **({"top5_error": sums.top5_error} if self.data.classes > 5 else {}),
        }
        for key, value in found.items():
            at.curve.setdefault(key, []).append(value)
        self._tell()
        self.losses.zero_()
        at.losses, at.parts = 0.0, 0
        if at.step == self.steps:
            at.epoch, at.step = at.epoch + 1, 0
            at.over |= self.recipe.minutes is None and at.epoch >= self.recipe.all_epochs

    def _evaluate(self, images: Images) -> Sums:
        distributed.same_buffers(self.stepper.evaluated)
        read = replace(self.reading, batch=max(_EVALUATED, self.recipe.batch))
        sums = evaluate(
            self.stepper, self._noting(batches.evaluation_batches(images, read, self.plain))
        )
        sums = Sums(distributed.sum_over_ranks(sums.values))
        if not math.isfinite(sums.loss):
            raise TrialError(f"{self._where()}: the loss in evaluation is {sums.loss}. {_CALMER}")
        return sums

    def _noting(self, loader: Iterator[Batch]) -> Iterator[Batch]:
        for batch in loader:
            self.at.broken += [path for path in batch.broken if path not in self.at.broken]
            yield batch
            if self.world == 1:  # others may have one batch more, and would wait
                self._must_end()

    def _share_losses(self) -> None:
        """Let every process hold the mean of all; a loss that is no number ends the trial."""
        self.losses = distributed.sum_over_ranks(self.losses) / self.world
        self.at.losses = float(self.losses)
        self.at.step_s += self.watch.take()  # the number above has come: all steps are done
        if not math.isfinite(self.at.losses):
            raise TrialError(f"{self._where()}: the loss is {self.at.losses}. {_CALMER}")

    def _where(self) -> str:
        return f"epoch {self.at.epoch + 1}, step {self.at.step} of {self.steps}"

    def _tell(self) -> None:
        at = self.at
        minutes = self.recipe.minutes is not None
        if self.world == 1:
            self._share_losses()
        else:
            at.losses = float(self.losses)  # of this process: the others are not asked now
        self.tell(
            Progress(
                epoch=at.epoch,
                epochs=self.recipe.all_epochs,
                step=at.steps,
                steps=None if minutes else self.steps * self.recipe.all_epochs,
                loss=at.losses / at.parts if at.parts else None,
                top1_error=at.curve["top1_error"][-1] if at.curve else None,
                images_s=at.images / at.step_s if at.step_s else None,
            )
        )

    def _save(self) -> None:
        self._share_losses()
        self._share_broken()
        if self.rank == 0:
            state = {
                "world": self.world,
                "position": asdict(self.at),
                "stepper": self.stepper.state(),
            }
            checkpoint.save_checkpoint(self.folder, state)
        self.saved_s = time.monotonic()

    def _share_broken(self) -> None:
        """Let every process know of the broken images that any has met."""
        found = distributed.from_all(self.at.broken)
        self.at.broken = sorted({path for paths in found for path in paths})

    def _take_up(self, state: dict[str, Any]) -> None:
        if state["world"] != self.world:
            raise CtxbenchError(
                f"Trial {self.trial.id} was begun by {state['world']} processes and cannot go on "
                f"with {self.world}. Start as many, or remove {self.folder}."
            )
        self.at = Position(**state["position"])
        self.at.resumed += 1
        self.losses.fill_(self.at.losses)
        self.stepper.load(state["stepper"])

    def _row(self, sums: Sums) -> TrialRow:
        self._share_broken()
        at, model = self.at, self.stepper.evaluated
        weights = b""
        if self.rank == 0:
            weights = checkpoint.save_weights(self.folder, model).read_bytes()
        params, macs = costs_of(self.trial.model, self.data.image_shape)
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) / _MIB if cuda else peak_resident_mib()
        return TrialRow(
            **_told(self.trial),
            status="ok",
            top1_error=sums.top1_error,
            top5_error=sums.top5_error if self.data.classes > 5 else None,
            loss=sums.loss,
            train_loss=at.curve["train_loss"][-1],
            train_top1_error=at.curve["train_top1_error"][-1],
            epochs=at.curve["epoch"][-1],
            steps=at.steps,
            images_s=at.images / at.step_s,
            loader_images_s=at.images / self.world / at.loader_s * max(self.run.workers, 1),
            params=params,
            macs=macs,
            seconds=at.seconds,
            peak_mib=peak,
            weights=hashlib.sha256(weights).hexdigest()[:16],
            broken_images=tuple(at.broken),
            resumed=at.resumed,
            device=torch.cuda.get_device_name(self.device) if cuda else "cpu",
            threads=self.run.threads,
            world=self.world,
            curve=at.curve,
        )


def probed(data: Data) -> int:
    """Return how many training images the training error is taken on."""
    return min(_PROBED, len(data.train), len(data.validation))


def probe_of(images: Images, count: int) -> Images:
    """Return some of the training images, the same for every network, to take their error on."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(images), generator=generator)[:count]
    if isinstance(images, TensorImages):
        return TensorImages(images.images[chosen], images.labels[chosen])
    return Subset(images, chosen.tolist())  # type: ignore[arg-type]
