"""Networks prepared for inference: what is fixed once training ends is folded into its neighbours.

Which layers are neighbours is not read from the names of modules, which say nothing of the order
in which they run, but from one run on an example input.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import dropout
from torch.nn.utils import parametrize

from ctxbench.errors import CtxbenchError, SpecError
from ctxbench.kernels import use_backend
from ctxbench.models._dataflow import Call, Dataflow, has_hooks
from ctxbench.models._folded import Beside, Fold, Folded, folding
from ctxbench.models._folding import (
    Affine,
    Joined,
    affine_of,
    class_of,
    input_axis,
    output_axis,
    scale_input,
    scale_output,
)
from ctxbench.models.convnext import ConvNeXtBlock
from ctxbench.models.overlock import OverLoCK
from ctxbench.ops import DilatedReparam
from ctxbench.ops._parts import ResidualDepthwise

__all__ = ["Fold", "fold", "folding", "prepare", "split_prepared"]

OPTION = "prepared"  # of every spec
_SIDE = 224  # what networks are shown that nobody has said the input of
# how far the outputs may move on the example, as a part of the largest: a layer that was folded
# wrongly moves them more, and rounding less, even in a deep network that has not been trained
_TOLERANCE, _HALF_TOLERANCE = 0.01, 0.1
# what a network raises that cannot run: on these inputs, or because a layer is gone that it asks
_RAISED = (
    RuntimeError, TypeError, ValueError, LookupError, AssertionError, AttributeError,
)  # fmt: skip
# these are not imported: their libraries need not be there
_DROPS = (
    "torchvision.ops.stochastic_depth.StochasticDepth",
    "timm.layers.drop.DropPath",
)
_TORCHVISION_BLOCK = "torchvision.models.convnext.CNBlock"


def prepare(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """Return a copy of a network that computes the same in eval mode, with fewer layers.

    Batch norms become part of the convolution, or the linear layer, before them, or of the one
    behind them where it pads nothing; the branches of DilatedReparam one convolution; a ConvNeXt's
    scale part of the layer before it; a depthwise convolution and the identity beside it one.
    What drops in training is removed, and so is what only training uses of OverLoCK.
    Layers that are called several times, read otherwise, parametrized or hooked into stay, and so
    do norms behind an addition, an activation or a dense contextual convolution. `folding` says
    what was folded; `model` stays as it is.

    `inputs` are what the network is run on, to see what it does: one image of 224 px if none are
    given. Which layers it calls must not depend on their size; where it looks at their values to
    decide something, it is refused. Operators run with the backend `reference` here.

        fast = prepare(create_model("overlock_xt"))

    Raises: CtxbenchError if the network cannot be copied, cannot run on the inputs, decides by
            their values what it does, or computes something else, or nothing, once its layers are
            folded. TypeError for what is no network or no tensor.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"prepare takes a torch.nn.Module; got {type(model).__name__}. A name is built by "
            f"ctxbench.create_model."
        )
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"prepare takes the tensors that the network is run on, one by one: "
                f"prepare(model, x); got {type(x).__name__}."
            )
    with _one_line(model, "cannot be copied", "Prepare it before it is changed like this."):
        copy = deepcopy(model)
    fold(copy, *inputs)
    return copy


def fold(model: nn.Module, *inputs: Tensor) -> None:
    """Do to the network itself what `prepare` does to a copy of it."""
    with _one_line(model, "cannot be prepared", "Prepare it in its plain form."):
        model.eval().requires_grad_(False)
    example = inputs or (_example(model),)
    shapes = ", ".join(str(tuple(x.shape)) for x in example)
    cannot = f"cannot run on an input of {shapes}"
    with torch.random.fork_rng(devices=[]), torch.no_grad(), use_backend("reference"):
        with _one_line(model, cannot, "Give prepare the tensors that it takes: prepare(model, x)."):
            before = Dataflow.of(model, example)
        _refuse_to_guess(model, before)
        for module in list(model.modules()):
            _fold_inside(model, module)
        after = _run_folded(model, example)
        while _fold_neighbours(model, after):
            after = _run_folded(model, example)
    _compare(model, before.output, after.output)


def split_prepared(spec: str) -> tuple[str, bool]:
    """Return a spec without its option `prepared`, and whether that asks for preparation.

    Raises: SpecError for a value that is neither true nor false, and for an option given twice.
    """
    parts = spec.split(":")
    found = [part for part in parts if part.partition("=")[0].strip() == OPTION]
    values = [part.partition("=")[2].strip().lower() for part in found]
    if len(values) > 1:
        raise SpecError(f"Spec {spec!r} gives {OPTION!r} twice. Keep one.")
    if values and values[0] not in ("true", "false"):
        raise SpecError(f"{spec}: {found[0].strip()} is not true or false.")
    return ":".join(part for part in parts if part not in found), values == ["true"]


# inside one module


def _fold_inside(model: nn.Module, module: nn.Module) -> None:
    """Fold what a module is known to be made of, and remove it if only training needs it."""
    if not _open(module):
        return
    if isinstance(module, OverLoCK | DilatedReparam) and all(map(_open, module.modules())):
        module.reparameterize() if isinstance(module, OverLoCK) else module.fold()
    elif type(module) is ResidualDepthwise and _open(module.conv):
        _replace(model, module, Joined(module))
    elif type(module).__module__ == dropout.__name__ or class_of(module) in _DROPS:
        _replace(model, module, Folded(type(module).__name__))
    else:
        _fold_scale(model, module)


def _fold_scale(model: nn.Module, block: Any) -> None:
    """Fold the scale that ends the branch of a ConvNeXt block into the branch's last layer."""
    if type(block) is ConvNeXtBlock and block.gamma is not None and _open(block.pwconv2):
        scale_output(block.pwconv2, _scale(block.gamma))
        block.gamma = None
    elif class_of(block) == _TORCHVISION_BLOCK and _open(block.block[-2]):
        scale_output(block.block[-2], _scale(block.layer_scale))
        _replace(model, block, Beside(block.block))


def _scale(weight: Tensor) -> Affine:
    scale = weight.double().flatten()
    return Affine(scale, torch.zeros_like(scale), axis=-1)


# between two modules


def _fold_neighbours(model: nn.Module, flow: Dataflow) -> bool:
    """Fold each norm whose input or output nobody else sees into its neighbour; tell if any was."""
    alone = [call for module in model.modules() if (call := _alone(module, flow)) is not None]
    makers = {id(call.made[0]): call for call in alone if output_axis(call.module) is not None}
    takers = {id(call.given[0]): call for call in alone if input_axis(call.module) is not None}
    changed: set[nn.Module] = set()
    for norm in alone:
        affine = affine_of(norm.module)
        if affine is None:
            continue
        before, behind = makers.get(id(norm.given[0])), takers.get(id(norm.made[0]))
        if before and flow.readers(before) == {norm.module}:
            layer, axis, change = before.module, output_axis(before.module), scale_output
        elif behind and flow.readers(norm) == {behind.module} and not affine.then:
            layer, axis, change = behind.module, input_axis(behind.module), scale_input
        else:
            continue
        if _channels_meet(norm, affine, axis) and not changed & {layer, norm.module}:
            changed |= {layer, norm.module}
            change(layer, affine)
            folded = Folded(type(norm.module).__name__, _path(model, layer))
            then = affine.then
            _replace(model, norm.module, nn.Sequential(folded, *then) if then else folded)
    return bool(changed)


def _alone(module: nn.Module, flow: Dataflow) -> Call | None:
    """Return the only call of a module that nobody else looks into, if it has a tensor to give."""
    call = flow.only_call(module)
    if call is None or not all(map(_open, module.modules())):
        return None
    weights = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    own = all(flow.readers_of_weight(weight) <= {module} for weight in weights)
    return call if own else None


def _channels_meet(norm: Call, affine: Affine, axis: int | None) -> bool:
    (x,) = norm.given
    if axis is None or affine.axis % x.ndim != axis % x.ndim:
        return False
    return len(affine.scale) == x.shape[axis]


# the network around them


def _open(module: nn.Module) -> bool:
    """Tell whether a module is what its class says, with nobody looking on."""
    own = "forward" not in vars(module) and not parametrize.is_parametrized(module)
    return own and not has_hooks(module)


def _path(model: nn.Module, module: nn.Module) -> str:
    return str(next(path for path, each in model.named_modules() if each is module))


def _replace(model: nn.Module, module: nn.Module, stand_in: nn.Module) -> None:
    for path, each in list(model.named_modules(remove_duplicate=False)):
        if each is module and path:
            model.set_submodule(path, stand_in.eval())


def _example(model: nn.Module) -> Tensor:
    """Return one image as the network takes them, on its device and in its type."""
    channels = (getattr(module, "in_channels", None) for module in model.modules())
    first = next((number for number in channels if isinstance(number, int)), 3)
    weights = [p for p in model.parameters() if p.is_floating_point()]
    like = weights[0] if weights else torch.empty(0)
    # no random numbers are drawn: whoever prepares a network has set a seed for something else
    wave = torch.arange(first * _SIDE**2, device=like.device).sin()
    return wave.reshape(1, first, _SIDE, _SIDE).to(like)


@contextmanager
def _one_line(model: nn.Module, what: str, way_out: str) -> Iterator[None]:
    """Say in one line what became of a network that raises something."""
    try:
        yield
    except _RAISED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        told = f"{type(model).__name__} {what}: {reason.rstrip('.')}. {way_out}"
        raise CtxbenchError(told) from error


def _run_folded(model: nn.Module, inputs: Sequence[Tensor]) -> Dataflow:
    with _one_line(model, "cannot run once its layers are folded", "Use it unprepared."):
        return Dataflow.of(model, inputs)


def _refuse_to_guess(model: nn.Module, flow: Dataflow) -> None:
    if flow.decides:
        raise CtxbenchError(
            f"{type(model).__name__} takes values out of tensors that it computes, so that one run "
            f"does not show all that it may do. Use it unprepared."
        )


def _compare(model: nn.Module, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    """Raise CtxbenchError where the outputs differ by more than rounding."""
    for old, new in zip(before, after, strict=True):
        if not old.is_floating_point() or old.is_meta or not old.numel():
            continue
        tolerance = _HALF_TOLERANCE if old.dtype.itemsize == 2 else _TOLERANCE
        far, largest = float((new - old).abs().max()), float(old.abs().max())
        if far > tolerance * largest:
            raise CtxbenchError(
                f"{type(model).__name__} computes something else once its layers are folded: its "
                f"output moves by {far:.2g} of {largest:.2g}. Use it unprepared."
            )
