"""Networks as programs that run without this package: torch.export and ONNX."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ctxbench.errors import CtxbenchError, MissingPackageError
from ctxbench.kernels import use_backend
from ctxbench.models._mode import evaluating
from ctxbench.models.saving import write_new

OPSET = 20
_MOST_BYTES = 2**31 - 2**24  # of a protocol buffer, less room for the graph

# family of networks -> why its ONNX files take one size of batch; torch.export takes any
ONE_BATCH_SIZE = {
    "cgc_resnet": "the samples are groups of one convolution, and ONNX's Conv has a fixed number",
}


class ExportError(CtxbenchError):
    """A network that cannot be written as a program as asked."""


def export_program(model: nn.Module, x: Tensor, *, dynamic_batch: bool = True) -> ExportedProgram:
    """Return what the network computes in eval mode as a torch.export program.

    Its inputs have the shape of `x`, with any batch size if `dynamic_batch`; dense contextual
    convolutions choose between two orders of multiplying, for speed, and a program takes the batch
    sizes for which the choice stays that of `x`: see its `range_constraints`.
    A dynamic batch is traced as by torch.compile, which takes several times as long: the other
    tracer takes `len(x)` for a number. Operators are traced in their plain form, the backend
    `reference`, so that no operator of ours is in the program.
    Raises: ExportError if the network cannot be traced, or does not take `x`.
    """
    _check_takes(model, x)
    if not dynamic_batch:
        return _export(model, x, strict=False, shapes=None)
    if len(x) == 1:  # a batch of one would be taken for a number
        x = torch.cat([x, x])
    program = _export(model, x, strict=True, shapes=({0: Dim.AUTO},))
    if not program.range_constraints:  # the batch has no symbol
        raise ExportError(
            f"{type(model).__name__} computes with its batch size as a number. Export with "
            f"dynamic_batch=False and x of the batch size you need."
        )
    return program


def export_onnx(
    model: nn.Module,
    path: str | Path,
    x: Tensor,
    *,
    dynamic_batch: bool = True,
    overwrite: bool = False,
) -> None:
    """Write what the network computes in eval mode as an ONNX file.

    Its inputs have the shape of `x`, with any batch size if `dynamic_batch`. What onnxruntime
    does for speed is left to it. A file beyond 2 GB is refused.
    Raises: ExportError for what ONNX cannot say; CheckpointError if the file is there already, or
            cannot be written; MissingPackageError without the packages of the extra `onnx`.
    """
    _check_installed()
    _check_size(model)
    path = Path(path)
    with write_new(path, suffixes=(".onnx",), overwrite=overwrite) as save:
        program = export_program(model, x, dynamic_batch=dynamic_batch)
        _check_sayable(program, type(model).__name__)
        data = _as_onnx(program)
        save(lambda file: file.write_bytes(data))


def _as_onnx(program: ExportedProgram) -> bytes:
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["y"],
            custom_translation_table=_translations(),
            optimize=False,  # onnxruntime does so anyway; here it takes minutes for large kernels
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"ONNX cannot say what is computed: {_first_line(error)}") from error
    data: bytes = written.model_proto.SerializeToString()  # type: ignore[union-attr]
    return data


def _export(
    model: nn.Module, x: Tensor, *, strict: bool, shapes: tuple[dict[int, Any], ...] | None
) -> ExportedProgram:
    try:
        with evaluating(model), use_backend("reference"):
            return torch.export.export(model, (x,), dynamic_shapes=shapes, strict=strict)
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError, ValueError) as error:
        name = type(model).__name__
        raise ExportError(f"torch.export cannot trace {name}: {_first_line(error)}") from error


def _check_takes(model: nn.Module, x: Tensor) -> None:
    """Raise ExportError for an input that the network itself refuses, with its reason."""
    try:
        with evaluating(model), torch.no_grad(), use_backend("reference"):
            model(x)
    except (RuntimeError, ValueError) as error:
        shape = "x".join(map(str, x.shape))
        raise ExportError(
            f"{type(model).__name__} does not take an input of {shape}: {_first_line(error)}"
        ) from error


def _check_sayable(program: ExportedProgram, name: str) -> None:
    """Raise ExportError for what ONNX, or our translation into it, has no form for."""
    for node in program.graph.nodes:
        if str(node.target) in _CONVOLUTIONS and not isinstance(_groups(node), int):
            raise ExportError(
                f"{name}: an ONNX convolution has a fixed number of groups, and samples are groups "
                f"here. Export with dynamic_batch=False and x of the batch size you need."
            )
        if "aten.embedding_bag" in str(node.target) and not _even_bags(node):
            raise ExportError(
                f"{name}: ONNX has a form for weighted sums of equal bags alone, not for this one."
            )


_CONVOLUTIONS = ("aten.conv2d.default", "aten.convolution.default")


def _groups(node: torch.fx.Node) -> object:
    return node.args[-1] if len(node.args) in (7, 9) else node.kwargs.get("groups", 1)


def _even_bags(node: torch.fx.Node) -> bool:
    """Tell a weighted sum over the rows of a matrix of indices, whose bags are of one size."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {argument.name: argument.default_value for argument in schema}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    return (
        "aten.arange" in str(getattr(given["offsets"], "target", ""))
        and given["mode"] == 0
        and given["per_sample_weights"] is not None
        and not given["include_last_offset"]
        and given.get("padding_idx") in (None, -1)
    )


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return operators of torch that torch.onnx has no translation for -> theirs."""
    from onnxscript import opset20 as op

    def sort(x: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        # of equal values TopK has the one of the lower index first, as a stable sort does
        size = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
        return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)

    def embedding_bag(rows: Any, index: Any, offsets: Any, *options: Any, **more: Any) -> Any:
        # the options after the offsets: scale_grad_by_freq, mode, sparse, per_sample_weights
        shares = options[3] if len(options) > 3 else more.get("per_sample_weights")
        read = op.Gather(rows, index, axis=0)
        weighted = op.Mul(read, op.Unsqueeze(shares, op.Constant(value_ints=[1])))
        inside = op.Constant(value_ints=[-1])
        bags = op.Concat(op.Shape(offsets), inside, op.Shape(rows, start=1), axis=0)
        total = op.ReduceSum(op.Reshape(weighted, bags), op.Constant(value_ints=[1]), keepdims=0)
        return total, offsets, offsets, offsets

    aten = torch.ops.aten
    bags = (aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
    return {aten.sort.stable: sort, **dict.fromkeys(bags, embedding_bag)}


def _check_size(model: nn.Module) -> None:
    """Raise ExportError for weights that do not fit into one ONNX file."""
    size = sum(w.nbytes for w in (*model.parameters(), *model.buffers()))
    if size > _MOST_BYTES:
        raise ExportError(
            f"{type(model).__name__} has {size / 2**30:.1f} GiB of weights; an ONNX file holds "
            f"less than 2. Export it in float16, or as a program: export_program."
        )


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackageError(str(error.name), "ONNX export", "onnx") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
