"""A network made ready to run under a condition, and checked against its plain form."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.errors import LatencyError
from ctxbench.kernels import inside, use_backend
from ctxbench.latency.condition import Condition
from ctxbench.models import resolve, without_weights
from ctxbench.models.foreign import is_foreign
from ctxbench.models.overlock import OverLoCK
from ctxbench.models.preparing import prepare, split_prepared
from ctxbench.ops import DilatedReparam, backends_in, operators_in

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# how far a fast path may be from the plain one, as a part of the largest value
TOLERANCES = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "fp16": 5e-2}
# options of a spec that ask for another way of computing the same
_FOLDED = ("reparam=true", "folded=true")
PLAIN = "reference"  # the backend that others are held against
_LR, _MOMENTUM = 1e-4, 0.9


class Subject:
    """One network, its input, and the phases of one step; `make_fast` leaves the plain form.

    The weights are those that a new network has, the input is normal noise: zeros would run faster.
    """

    def __init__(self, spec: str, condition: Condition) -> None:
        self.spec, self.condition = spec, condition
        set_precision(condition)
        torch.manual_seed(condition.seed)
        check_folding(spec, condition)
        plain, self.folds = _unfolded(spec)
        self._network = resolve(plain)
        self.model = self._place(self._network.build())
        self._made_fast = False
        self.set_batch(condition.batch)
        self._call: Callable[..., Any] = self._compute
        self._scaler = torch.amp.GradScaler(
            self._device_type, enabled=condition.dtype == "fp16" and self._trains
        )
        self._result: Any = None

    @cached_property
    def _optimiser(self) -> torch.optim.Optimizer:
        parameters = list(self.model.parameters())
        if not parameters:
            raise LatencyError(f"{self.spec} has no parameters to train. Use --mode inference.")
        return torch.optim.SGD(parameters, lr=_LR, momentum=_MOMENTUM)

    @property
    def _device_type(self) -> str:
        return self.condition.device.partition(":")[0]

    @property
    def _trains(self) -> bool:
        return self.condition.mode == "training"

    def set_batch(self, batch: int) -> None:
        """Make the input: noise in the shape of what the network takes."""
        like = self._network.inputs(batch, *self.condition.image_size)
        device, dtype = self.condition.device, self._weight_dtype()
        made = [
            torch.randn_like(x, dtype=dtype, device=device)
            if x.is_floating_point()
            else x.to(device)
            for x in like
        ]
        # an operator stands inside a network, where its input has a gradient
        needs_grad = self._trains and self.spec.startswith("op/")
        self.inputs = tuple(x.requires_grad_(needs_grad and x.is_floating_point()) for x in made)
        if self._made_fast:
            self._lay_out_inputs()

    # phases

    def grad_mode(self) -> AbstractContextManager[Any]:
        """Return what the phases run under."""
        return torch.inference_mode() if self.condition.mode == "inference" else nullcontext()

    def phases(self) -> dict[str, Callable[[], object]]:
        """Return the parts of one step, to be called in their order."""
        if self.condition.mode == "inference":
            return {"forward": self._forward_only}
        return {
            "forward": self._forward,
            "backward": self._backward,
            "optimiser": self._optimise,
        }

    def _forward_only(self) -> None:
        self._call(*self.inputs)

    def _forward(self) -> None:
        self._result = self._call(*self.inputs)

    def _backward(self) -> None:
        self._scaler.scale(self._result).backward()
        self._result = None

    def _optimise(self) -> None:
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._clear_gradients()

    def forget(self) -> None:
        """Drop what a step that failed has left behind, and the input."""
        self._result, self.inputs = None, ()
        self._clear_gradients()

    def _clear_gradients(self) -> None:
        for tensor in [*self.model.parameters(), *self.inputs]:
            tensor.grad = None

    def _compute(self, *inputs: Tensor) -> Any:
        """Return the output, or in training the loss."""
        if self.condition.mode == "inference":
            return self.model(*inputs)
        with self._autocast():
            if self._network.loss:
                return self._network.loss(self.model, inputs[0], _target(inputs[0], classes=2))
            return _default_loss(self.model(*inputs))

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = DTYPES[self.condition.dtype]
        mixed = self._trains and dtype != torch.float32
        return torch.autocast(self._device_type, dtype, enabled=mixed)

    @property
    def weights_bytes(self) -> int:
        """What parameters and buffers hold."""
        return sum(map(_bytes, [*self.model.parameters(), *self.model.buffers()]))

    @property
    def state_bytes(self) -> int:
        """What is held beside the weights between two steps: the input, and the momenta."""
        momenta = _tensors_in(list(self._optimiser.state.values())) if self._trains else ()
        return sum(map(_bytes, [*self.inputs, *momenta]))

    def plain_forward(self) -> Any:
        """Run the network eagerly, in the precision asked for."""
        with self._autocast():
            return self.model(*self.inputs)

    # fast paths

    @property
    def fast(self) -> bool:
        """Whether the condition or the spec asks for another way of computing."""
        plain = self.condition.layout == "contiguous" and self.condition.backend == "eager"
        return self.folds or not plain or self._asks_for_kernels

    @property
    def _asks_for_kernels(self) -> bool:
        """Whether a backend is named, by the spec or `use_backend`, that is not the plain one."""
        named = inside() or any(operator.backend for operator in operators_in(self.model))
        return bool(named) and backends_in(self.model) not in ([], [PLAIN])

    def make_fast(self) -> None:
        """Fold, lay out and compile the network as asked; asked again, it stays as it is."""
        if self._made_fast:
            return
        self._made_fast = True
        if self.folds:  # in float32: the plain model has been rounded already
            torch.manual_seed(self.condition.seed)
            self.model = self._place(self._folded(self._network.build().eval()))
        if self.condition.layout == "channels_last":
            self.model.to(memory_format=torch.channels_last)
        self._lay_out_inputs()
        if self.condition.backend == "compiled":
            from torch._dynamo import config

            config.fail_on_recompile_limit_hit = True
            self._call = torch.compile(self._compute, dynamic=False)
        elif self.condition.backend == "cudagraph":
            self._capture()

    def _folded(self, model: nn.Module) -> nn.Module:
        if split_prepared(self.spec)[1]:
            return prepare(model, *self._network.inputs(1, *self.condition.image_size))
        return _fold(model)

    def _lay_out_inputs(self) -> None:
        if self.condition.layout == "channels_last":
            self.inputs = tuple(map(_channels_last, self.inputs))

    def results(self) -> list[Tensor]:
        """Return what one step computes: the output, or the loss and every gradient."""
        plain = self._asks_for_kernels and not self._made_fast
        with use_backend(PLAIN) if plain else nullcontext():
            return self._results()

    def _results(self) -> list[Tensor]:
        with self.grad_mode():
            result = self._call(*self.inputs)
            if self.condition.mode == "inference":
                return [tensor.clone() for tensor in _tensors_in(result)]
        result.backward()
        found = [result.detach(), *(p.grad for p in self.model.parameters() if p.grad is not None)]
        self._clear_gradients()
        return found

    def _capture(self) -> None:
        """Record the forward pass as a CUDA graph, which `_call` replays."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), self.grad_mode():
            for _ in range(3):  # what is set up at a first call must not be recorded
                self._compute(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with self.grad_mode(), torch.cuda.graph(graph):
            result = self._compute(*self.inputs)

        def replay(*_: Tensor) -> Any:
            graph.replay()
            return result

        self._call = replay

    def _place(self, model: nn.Module) -> nn.Module:
        """Put a network on the device, in its mode and dtype."""
        model.train(self._trains)
        return model.to(self.condition.device, self._weight_dtype())

    def _weight_dtype(self) -> torch.dtype:
        if self._trains:
            return torch.float32
        return DTYPES[self.condition.dtype]


def compare(mine: list[Tensor], reference: list[Tensor]) -> float:
    """Return how far results are from the reference, as a part of its largest value."""
    if [x.shape for x in mine] != [x.shape for x in reference]:
        raise LatencyError("A fast path returns other shapes than the plain one.")
    pairs = [(a.float(), b.float()) for a, b in zip(mine, reference, strict=True) if b.numel()]
    if not pairs:
        return 0.0
    far = torch.stack([(a - b).abs().max().cpu() for a, b in pairs]).max()
    largest = max(float(b.abs().max()) for _, b in pairs)
    return float(far) / (largest or 1.0)


def check_folding(spec: str, condition: Condition) -> None:
    """Refuse to train what is folded."""
    plain, folds = _unfolded(spec)
    if folds and condition.mode == "training":
        raise LatencyError(f"{spec} is folded for inference. Train the unfolded {plain}.")


def op_backend(spec: str) -> str | None:
    """Return the backend that computes the operators of a network here, or None if it has none."""
    return "+".join(backends_in(without_weights(resolve(spec)))) or None


def check_op_backend(spec: str, condition: Condition) -> None:
    """Refuse to time on a CPU what only GPUs compute; Triton's interpreter says nothing of time."""
    if not condition.cuda and "triton" in (op_backend(spec) or ""):
        raise LatencyError(
            f"{spec} is computed by triton, which needs an NVIDIA GPU; got --device "
            f"{condition.device}. Use --device cuda, or backend=torch."
        )


def _unfolded(spec: str) -> tuple[str, bool]:
    """Return the spec of the network before it is folded, and whether it is to be folded."""
    spec, prepares = split_prepared(spec)
    if is_foreign(spec.partition(":")[0]):  # its other options mean what they like
        return spec, prepares
    parts = spec.split(":")
    kept = [part for part in parts if part.lower() not in _FOLDED]
    return ":".join(kept), prepares or kept != parts


def _fold(model: nn.Module) -> nn.Module:
    if isinstance(model, OverLoCK):
        return model.reparameterize()
    for module in list(model.modules()):
        if isinstance(module, DilatedReparam):
            module.fold()
    return model


def set_precision(condition: Condition) -> None:
    """Say how float32 products are rounded, and let cuDNN search for the fastest kernels."""
    if not condition.cuda:
        return
    torch.cuda.set_device(torch.device(condition.device).index or 0)
    rounded = condition.dtype == "tf32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    torch.backends.cudnn.benchmark = True


def _default_loss(output: Any) -> Tensor:
    """Return the cross entropy of logits (B, classes), else the mean square of all outputs."""
    if isinstance(output, Tensor) and output.ndim == 2:
        return F.cross_entropy(output, _target(output, classes=output.shape[1]))
    found = [x.float().square().mean() for x in _tensors_in(output) if x.numel()]
    return torch.stack(found).sum()


def _target(like: Tensor, *, classes: int) -> Tensor:
    return torch.arange(len(like), device=like.device) % classes


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _channels_last(x: Tensor) -> Tensor:
    if x.ndim != 4:
        return x
    laid_out = x.detach().contiguous(memory_format=torch.channels_last)
    return laid_out.requires_grad_(x.requires_grad)
