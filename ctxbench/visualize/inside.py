"""Looking inside a network without changing it: hooks, names of layers, scores of any output."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ctxbench.errors import UnknownNameError, VisualizeError

# what changes no map, or leaves nothing of it
_NO_TARGET = (nn.Identity, nn.Dropout, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# how far a map's width may be from what its height lets expect, in pixels and as a share
_ODD, _ODD_SHARE = 1.5, 0.1


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode with frozen parameters, and everything back afterwards.

    Everything: the mode of each module, requires_grad, gradients; also after an error. Gradients
    are made, of what needs them: inputs, not weights; also inside the caller's `no_grad` or
    `inference_mode`. Compiled networks run uncompiled, since what is compiled calls no hooks.
    """
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for module, _ in modes:
            _set_mode(module, False)
        for parameter, _, _ in parameters:
            _set_gradient(parameter, False, None)
        # what is made in inference mode has no gradient
        with (
            torch.compiler.set_stance("force_eager"),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        for module, mode in modes:
            _set_mode(module, mode)
        for parameter, required, gradient in parameters:
            _set_gradient(parameter, required, gradient)


# setting what is so already takes as long as a small network


def _set_mode(module: nn.Module, training: bool) -> None:
    if module.training != training:
        module.training = training


def _set_gradient(parameter: nn.Parameter, required: bool, gradient: Tensor | None) -> None:
    if parameter.requires_grad != required:
        parameter.requires_grad_(required)
    if parameter.grad is not gradient:
        parameter.grad = gradient


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside a compiled or a parallel one."""
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inner = getattr(model, "module" if parallel else "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """Return the layer of a name, as `layer4.0.conv2`.

    Raises: UnknownNameError with the names that there are; VisualizeError for one of torch.jit.
    """
    layers = dict(model.named_modules())
    if not name or name not in layers:
        raise UnknownNameError("layer", name, (known for known in layers if known))
    layer: nn.Module = layers[name]
    if isinstance(layer, torch.jit.ScriptModule):
        raise VisualizeError(
            f"Layer {name!r} is compiled by torch.jit, and nothing can look into that. "
            f"Give the network as it was before."
        )
    return layer


def layers_of_type(model: nn.Module, *types: type[nn.Module]) -> list[str]:
    """Return the names of the layers of some types, in the order of the network."""
    return [name for name, module in model.named_modules() if isinstance(module, types)]


@dataclass(slots=True)
class Call:
    """What a layer was given and what it returned."""

    inputs: tuple[Any, ...]
    options: Mapping[str, Any]
    output: Any


@contextmanager
def listening(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[Call]]]:
    """Collect the calls of some layers, by name; tensors are copied, since others may change them.

    What is copied stays in the graph, so gradients with respect to it can be taken.
    Raises: UnknownNameError for a layer that does not exist.
    """
    calls: dict[str, list[Call]] = {name: [] for name in layers}
    handles: list[RemovableHandle] = []

    def hooks_for(name: str) -> tuple[Callable[..., None], Callable[..., Any]]:
        given: list[tuple[Any, Any]] = []

        def before(_: nn.Module, inputs: Any, options: Any) -> None:
            given.append((_copied(inputs), _copied(options)))

        def after(_: nn.Module, inputs: Any, options: Any, output: Any) -> Any:
            calls[name].append(Call(*given.pop(), output))
            return _copied(output)  # later layers, in place or not, work on the copy

        return before, after

    try:
        for name in calls:
            layer = layer_of(model, name)
            before, after = hooks_for(name)
            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(layer.register_forward_hook(after, with_kwargs=True))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def only_call(calls: Mapping[str, Sequence[Call]], name: str) -> Call:
    """Return the one call of a layer.

    Raises: VisualizeError for a layer that was called not at all, or more than once.
    """
    made = calls[name]
    if len(made) != 1:
        times = "is not called by this network" if not made else f"is called {len(made)} times"
        raise VisualizeError(
            f"Layer {name!r} {times}, so there is not one map to show. Choose another layer."
        )
    return made[0]


@contextmanager
def called(
    model: nn.Module, x: Tensor, layers: Sequence[str]
) -> Iterator[list[tuple[str, nn.Module, Call]]]:
    """Run images through a network at rest, and give each layer with its one call.

    Raises: VisualizeError as `outcome` and `only_call` do, UnknownNameError as `listening`.
    """
    with at_rest(model), torch.no_grad(), listening(model, layers) as calls:
        outcome(model, prepared(model, x))
        yield [(name, layer_of(model, name), only_call(calls, name)) for name in layers]


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_copied, value))
    if isinstance(value, tuple | list):
        return type(value)(_copied(item) for item in value)
    if isinstance(value, dict):
        return type(value)((key, _copied(item)) for key, item in value.items())
    return value


def prepared(model: nn.Module, x: Tensor) -> Tensor:
    """Return images in the kind of number and on the device of the network's weights."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return x if weight is None else x.to(weight)


def outcome(model: nn.Module, x: Tensor) -> Any:
    """Return what the network makes of images (B, C, H, W).

    Raises: VisualizeError, with the network's own words, if it cannot be run on them.
    """
    told = f"{type(model).__name__} cannot be run on images {tuple(x.shape)}"
    if x.ndim != 4 or not len(x):
        raise VisualizeError(f"{told}: a batch (B, C, H, W) is needed.")
    try:
        return model(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise VisualizeError(f"{told}: {reason}. Choose another size or network.") from error


def target_layer(model: nn.Module, x: Tensor) -> str:
    """Return the last layer that returns a map: (B, C, H, W), of more than one position.

    That is the last stage of a classifier, in front of the pooling. `x` (B, C, H, W) is tried out.
    Raises: VisualizeError for a network without such a layer, or with tokens behind it.
    """
    found: list[str] = []
    times: Counter[str] = Counter()
    tokens: list[str] = []  # layers behind the last map that return them
    handles: list[RemovableHandle] = []

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            times[name] += 1
            if not isinstance(module, _NO_TARGET) and is_map(output, x):
                found.append(name)
                tokens.clear()
            elif isinstance(output, Tensor) and output.ndim == 3 and output.shape[1] > 1:
                tokens.append(name)

        return hook

    try:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # which takes no hook
                handles.append(module.register_forward_hook(hook_for(name)))
        with torch.no_grad():
            outcome(model, prepared(model, x.clone()))  # a first layer may work in place
    finally:
        for handle in handles:
            handle.remove()
    once = [name for name in found if times[name] == 1]
    if not once:
        raise VisualizeError(
            f"{type(model).__name__} has no layer that returns a map (B, C, H, W) of more than one "
            f"position: what returns tokens, or is compiled by torch.jit, cannot be drawn. Choose "
            f"a network of convolutions."
        )
    if tokens:
        raise VisualizeError(
            f"{type(model).__name__} returns tokens behind its last map, that of {once[-1]!r}: "
            f"what decides the class there cannot be drawn. Choose that layer, or another network."
        )
    return once[-1]


def is_map(output: Any, x: Tensor) -> bool:
    """Say whether a layer has returned a map (B, C, H, W) of more than one position.

    It has the aspect ratio of the images, but for a pixel or so; with channels last it has not.
    """
    if not (isinstance(output, Tensor) and output.ndim == 4 and len(output) == len(x)):
        return False
    height, width = output.shape[2:]
    fitting = height * x.shape[3] / x.shape[2]  # the width that such a height would have
    return height * width > 1 and abs(fitting - width) <= _ODD + _ODD_SHARE * width


def scores_of(output: Any) -> Tensor:
    """Return class scores (B, classes) of whatever a network returns.

    Of dense predictions (B, classes, H, W) the mean over the positions, of several outputs the
    first or the one under `logits` or `out`, of detections the sum of the scores of each class.
    Raises: VisualizeError if there is nothing like that in it.
    """
    answer = _answer(output)
    if is_detection(answer):
        return _detected(answer)
    if isinstance(answer, Tensor) and answer.ndim in (2, 4):
        return answer if answer.ndim == 2 else answer.mean((2, 3))
    told = f"{type(answer).__name__} {tuple(getattr(answer, 'shape', ()))}"
    raise VisualizeError(
        f"The network returns {told}, which holds no class scores (B, classes). Choose a "
        f"classifier, or wrap the network in a FILE.py:FUNCTION that returns them."
    )


def probabilities_of(output: Any) -> Tensor:
    """Return the probability of each class (B, classes) of whatever a network returns.

    The softmax of the scores, of dense predictions its mean over the positions. Boxes are found or
    not, each with a score of its own: there all is NaN.
    """
    answer = _answer(output)
    scores = scores_of(answer).float()
    if is_detection(answer):
        return torch.full_like(scores, torch.nan)
    dense = isinstance(answer, Tensor) and answer.ndim == 4
    return answer.float().softmax(1).mean((2, 3)) if dense else scores.softmax(1)


def is_detection(output: Any) -> bool:
    """Say whether a network has returned boxes, one dictionary an image."""
    return (
        isinstance(output, tuple | list)
        and len(output) > 0
        and all(isinstance(item, dict) and {"scores", "labels"} <= item.keys() for item in output)
    )


def _answer(output: Any) -> Any:
    """Return the one of several outputs that says what is in the image."""
    if isinstance(output, dict) and output:
        name = next((key for key in ("logits", "out") if key in output), next(iter(output)))
        return _answer(output[name])
    if isinstance(output, tuple | list) and output and not is_detection(output):
        return _answer(output[0])
    return output


def _detected(found: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return the sum of the scores of each class over the boxes of each image."""
    classes = 1 + max(
        (int(item["labels"].max()) for item in found if len(item["labels"])), default=0
    )
    if classes == 1:
        raise VisualizeError(
            "The network detects nothing in these images, so there is no score. "
            "Choose other images, or a network with weights that detect."
        )
    rows = [
        item["scores"].new_zeros(classes).index_add(0, item["labels"], item["scores"])
        for item in found
    ]
    return torch.stack(rows)
