"""CoResNet: ResNet with a CoConv in the place of every 3x3 convolution of its blocks."""

import re

import torch
from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec
from ctxbench.models.resnet import DEPTHS, TINY, Conv3x3, Place, ResNet, ResNetConfig, resnet
from ctxbench.ops import CoConv2d

# Table 1 of the paper; a level is a count, or "top3" for the third dilation alone
Levels = tuple[int | str, ...]
PAPER_LEVELS: Levels = (4, 3, 2, 1)


def coresnet(config: ResNetConfig, *, levels: Levels = PAPER_LEVELS) -> ResNet:
    """Build a CoResNet; differs from `resnet` in the 3x3 convolutions and in nothing else.

    Its kernels are drawn like those of `resnet`, over all output channels; with a fan-out of each
    level's channels alone, as separate convolutions would have it, they would start larger.

    `levels` is one per stage; `top` alone is the largest dilation of each of 4, 3, 2, 1.
    With an `output_stride` below 32 the dilations of the levels multiply those of the stage.
    """
    return resnet(config, conv3x3=coconv3x3(levels, stages=len(config.blocks)))


def coconv3x3(levels: Levels, *, stages: int) -> Conv3x3:
    """Return the filling of the 3x3 slot with the CoConv of each stage."""
    if levels == ("top",):
        levels = tuple(f"top{level}" for level in PAPER_LEVELS)
    if len(levels) != stages:
        raise ValueError(
            f"levels={','.join(map(str, levels))} names {len(levels)} stages and the network has "
            f"{stages}. Give one level per stage, or top."
        )
    wrong = [level for level in levels if not _LEVEL_OPTION.fullmatch(str(level))]
    if wrong:
        raise ValueError(
            f"level {wrong[0]} is none. Give 1 to 5, top1, top2, ..., or top alone for all stages."
        )

    def build(channels: int, width: int, *, stride: int, dilation: int, place: Place) -> nn.Module:
        level = levels[place.stage]
        return CoConv2d(channels, width, levels=level, stride=stride, dilation=dilation, bias=False)

    return build


def from_authors(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Translate the entries of a file by the authors; other files pass unchanged.

    Their `conv2_1`, `conv2_2`, ... of dilation 1, 2, ... become one weight, and the batch norm
    that they move behind the addition becomes `end_norm`.
    """
    if not any(_LEVEL.search(key) for key in state):
        return state
    state = _with_end_norms(state)
    for name, module in model.named_modules():
        if isinstance(module, CoConv2d):
            state = _with_one_weight(state, f"{name}." if name else "", module)
    return state


_LEVEL_OPTION = re.compile(r"[1-5]|top[1-9]\d*")
_LEVEL = re.compile(r"(?:^|\.)conv2_(\d+)\.weight$")
_NORM = re.compile(r"(layer\d+)\.(\d+)\.bn3\.(\w+)")


def _with_one_weight(state: dict[str, Tensor], prefix: str, conv: CoConv2d) -> dict[str, Tensor]:
    found = {
        int(match[1]): key
        for key in state
        if key.startswith(f"{prefix}conv2_") and (match := _LEVEL.search(key))
    }
    levels = [[len(state[found[rate]]), rate] for rate in sorted(found)]
    merged = {key: value for key, value in state.items() if key not in found.values()}
    if found:
        merged[f"{prefix}weight"] = torch.cat([state[found[rate]] for rate in sorted(found)])
    merged[f"{prefix}_extra_state"] = torch.tensor(levels or [[conv.out_channels, 1]])
    return merged


def _with_end_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    norms = {key: match for key in state if (match := _NORM.fullmatch(key))}
    last: dict[str, int] = {}
    for match in norms.values():
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    moved = {
        key: f"{match[1]}.{match[2]}.end_norm.{match[3]}"
        for key, match in norms.items()
        if int(match[2]) == last[match[1]]
    }
    return {moved.get(key, key): value for key, value in state.items()}


_SOURCE = "arXiv:2108.07387, Table 1; iduta/coconv@755147c"

SPECS = {
    **{
        f"coresnet{depth}": ModelSpec(
            coresnet, source=_SOURCE, preset=preset, baseline=f"resnet{depth}"
        )
        for depth, preset in DEPTHS.items()
    },
    "coresnet_tiny": ModelSpec(
        coresnet, source=_SOURCE, preset=TINY, baseline="resnet_tiny", image_px=32
    ),
}
