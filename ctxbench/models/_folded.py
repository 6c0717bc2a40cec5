"""What stands in a network where layers were folded, and what it says of them."""

from typing import NamedTuple

from torch import Tensor, nn

from ctxbench.models._folding import Joined
from ctxbench.models.convnext import ConvNeXtBlock
from ctxbench.ops import DilatedReparam


class Fold(NamedTuple):
    """What became of one layer: its path, what it was, and the path of what it is part of now."""

    layer: str
    was: str
    into: str


class Folded(nn.Identity):
    """Stands where a layer stood that is part of another now; `into` is empty for what is gone."""

    def __init__(self, was: str, into: str = "") -> None:
        super().__init__()
        self.was, self.into = was, into

    def extra_repr(self) -> str:
        """Describe what stood here inside a printed network."""
        return f"{self.was} into {self.into}" if self.into else f"{self.was} removed"


class Beside(nn.Module):
    """A branch beside the identity: torchvision's ConvNeXt block once it has no scale.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus the branch."""
        return x + self.block(x)  # type: ignore[no-any-return]


def folding(model: nn.Module) -> list[Fold]:
    """Return what is folded in a network, layer by layer."""
    return [
        found
        for path, module in model.named_modules()
        if (found := _fold_of(path, module)) is not None
    ]


def _fold_of(path: str, module: nn.Module) -> Fold | None:
    """Return what the class of a module says of folding."""
    prefix = f"{path}." if path else ""
    if isinstance(module, Folded):
        return Fold(path, module.was, module.into)
    if isinstance(module, Joined):
        return Fold(path, "identity beside it", path)
    if isinstance(module, Beside):
        return Fold(f"{prefix}layer_scale", "scale", f"{prefix}block.5")
    if isinstance(module, ConvNeXtBlock) and module.gamma is None:
        return Fold(f"{prefix}gamma", "scale", f"{prefix}pwconv2")
    if isinstance(module, DilatedReparam) and module.folded:
        return Fold(path, f"{1 + len(module.sizes)} branches", f"{prefix}conv")
    return None
