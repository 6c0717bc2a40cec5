"""Where the pixels of a network's maps stand in its image, and which places a layer reads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ctxbench.ops import ContextualConv2d
from ctxbench.visualize.subject import Array

Pair = tuple[int, int]


class Window(NamedTuple):
    """What places the taps of a convolution or a pooling; each is (y, x)."""

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the pixels of a map stand: pixel i of an axis at start + i * step, in image pixels.

    Places are (..., 2) as (y, x); the first pixel of the image is at 0.
    """

    start_px: tuple[float, float] = (0.0, 0.0)
    step_px: tuple[float, float] = (1.0, 1.0)

    def after(self, window: Window) -> "Grid":
        """Return the grid of what a convolution or pooling makes of such a map.

        A pixel stands where the middle of its window is.
        """
        kernel, stride, padding, dilation = map(np.array, window)
        step = np.array(self.step_px)
        start = np.array(self.start_px) + ((kernel - 1) * dilation / 2 - padding) * step
        return _grid(start, step * stride)

    def before(self, window: Window) -> "Grid":
        """Return the grid of what a transposed convolution makes of such a map."""
        kernel, stride, padding, dilation = map(np.array, window)
        step = np.array(self.step_px) / stride
        return _grid(np.array(self.start_px) - ((kernel - 1) * dilation / 2 - padding) * step, step)

    def padded(self, top: int, left: int) -> "Grid":
        """Return the grid of such a map with pixels in front of it."""
        return _grid(np.array(self.start_px) - np.array((top, left)) * self.step_px, self.step_px)

    def to_image(self, places: Array) -> Array:
        """Return places of the map as places of the image."""
        moved: Array = np.asarray(self.start_px) + places * np.asarray(self.step_px)
        return moved

    def from_image(self, places: Array) -> Array:
        """Return places of the image as places of the map."""
        moved: Array = (places - np.asarray(self.start_px)) / np.asarray(self.step_px)
        return moved


def _grid(start: Any, step: Any) -> Grid:
    return Grid((float(start[0]), float(start[1])), (float(step[0]), float(step[1])))


def even_grid(size: Pair, image_size: Pair) -> Grid:
    """Return the grid of a map whose pixels divide the image evenly."""
    step = np.array(image_size) / np.array(size)
    return _grid((step - 1) / 2, step)


class Reading(NamedTuple):
    """One displaced convolution: the name of its layer, its map's size, and where it reads.

    Shape: offset (B, 2 * groups * taps, Y, X), mask (B, groups * taps, Y, X) or None.
    """

    layer: str
    window: Window
    input_size: Pair
    groups: int
    offset: Tensor
    mask: Tensor | None


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch has no types here
    """Follows the maps of a forward pass by their size, and notes what torchvision displaces.

    The operations are watched rather than the layers, so it does not matter which class calls
    them. Maps are told apart by their size: of several ways to one size, as in a block with a
    shortcut, the first one run counts (they may differ by half a pixel).
    """

    def __init__(self, image_size: Pair) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.grids: dict[Pair, Grid] = {image_size: Grid()}
        self.readings: list[Reading] = []
        self.running: list[str] = []  # names of the layers inside each other

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and note where its output stands."""
        output = func(*args, **(kwargs or {}))
        name = func.name()
        if name == "torchvision::deform_conv2d":
            self.readings.append(_reading(self.running[-1], args))
            self._place(args[0], output, Grid.after, self.readings[-1].window)
        elif name in _RULES:
            self._place(args[0], _first(output), *_RULES[name](*args))
        return output

    def _place(self, x: Any, output: Any, rule: Callable[..., Grid], *how: Any) -> None:
        if x.ndim == output.ndim == 4 and _size(x) in self.grids:
            self.grids.setdefault(_size(output), rule(self.grids[_size(x)], *how))


@contextmanager
def watching(model: nn.Module, x: Tensor) -> Iterator[Watch]:
    """Watch forward passes; a layer's name is its place in the network, the network's its class.

    Contextual convolutions are asked for their displacements when they have run: they read their
    map without torchvision.
    """
    watch = Watch(_size(x))
    handles = []

    def enter(name: str) -> Any:
        return lambda *_: watch.running.append(name)

    def leave(module: nn.Module, inputs: Any, options: Any, _: Any) -> None:
        if isinstance(module, ContextualConv2d) and module.offset_net is not None:
            watch.readings.append(_contextual(watch.running[-1], module, *inputs, **options))
        watch.running.pop()

    try:
        for name, module in model.named_modules():
            label = name or type(model).__name__
            handles.append(module.register_forward_pre_hook(enter(label)))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


def _contextual(
    name: str, layer: ContextualConv2d, x: Tensor, context: Tensor | None = None
) -> Reading:
    offset, mask = layer.sampling(x, context)
    window = Window(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return Reading(name, window, _size(x), 1, offset, mask)


def _reading(name: str, args: Sequence[Any]) -> Reading:
    """Read the arguments of torchvision's operation."""
    x, weight, offset, mask, _, *numbers = args
    stride, padding, dilation = (tuple(numbers[at : at + 2]) for at in (0, 2, 4))
    window = Window(tuple(weight.shape[2:]), stride, padding, dilation)
    groups, use_mask = numbers[7], numbers[8]
    return Reading(
        name, window, _size(x), groups, offset.clone(), mask.clone() if use_mask else None
    )


def _size(x: Tensor) -> Pair:
    return (x.shape[-2], x.shape[-1])


def _first(output: Any) -> Any:
    return output if isinstance(output, Tensor) else output[0]


def _pair(value: Any) -> Pair:
    return (int(value[0]), int(value[-1]))


def _convolution(*args: Any) -> tuple[Any, ...]:
    _, weight, _, stride, padding, dilation, transposed, *_ = args
    window = Window(_pair(weight.shape[-2:]), _pair(stride), _pair(padding), _pair(dilation))
    return (Grid.before if transposed else Grid.after), window


def _max_pool(
    _: Any, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), *__: Any
) -> tuple[Any, ...]:
    window = Window(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation))
    return Grid.after, window


def _mean_pool(
    x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), *_: Any
) -> tuple[Any, ...]:
    return _max_pool(x, kernel, stride, padding)


def _pad(_: Any, sides: Any, *__: Any) -> tuple[Any, ...]:
    left, _, top = (*sides, 0, 0)[:3]  # left, right, top, bottom
    return Grid.padded, top, left


# what moves pixels or makes fewer of them; all else leaves them where they are
_RULES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "aten::convolution": _convolution,
    "aten::max_pool2d_with_indices": _max_pool,
    "aten::avg_pool2d": _mean_pool,
    "aten::constant_pad_nd": _pad,
    "aten::reflection_pad2d": _pad,
    "aten::replication_pad2d": _pad,
}


def as_numpy(x: Tensor) -> Array:
    """Return the numbers of a tensor of any kind, in float32 at least."""
    exact = torch.promote_types(x.dtype, torch.float32)
    result: Array = x.detach().to("cpu", exact).numpy()
    return result
