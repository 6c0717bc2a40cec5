"""The entries of OverLoCK's published weight files, in our names."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ctxbench.ops.reparam import fold_state

Names = Mapping[str, str]

# beginning of a name -> ours; the first that fits counts
_NETWORK = {
    "patch_embed1.": "stem.",
    "patch_embed2.": "down2.",
    "patch_embed3.": "down3.",
    "patch_embed4.": "down4.",
    "patch_embedx.x_proj.": "focus_down.",
    "patch_embedx.h_proj.": "context_down.",
    "high_level_proj.": "context.",
    "blocks1.": "stage1.",
    "blocks2.": "stage2.",
    "blocks3.": "stage3.",
    "blocks4.": "overview.",
    "sub_blocks3.": "focus3.",
    "sub_blocks4.": "focus4.",
    "aux_head.2.": "auxiliary_head.3.",
    "aux_head.": "auxiliary_head.",
    "head.4.": "fc.",
}
_REPCONV = {
    "dwconv.": "local.conv.",
    "proj.0.": "norm.",
    "proj.1.": "spatial.",
    "proj.2.": "spatial_norm.",
    "proj.3.proj.1.": "excite.squeeze.",
    "proj.3.proj.3.": "excite.excite.",
    "proj.4.": "ffn.0.",
    "proj.6.": "ffn.2.conv.",
    "proj.7.": "ffn.3.",
    "proj.8.": "ffn.4.",
    "ls.": "scale.",
}
_DYNAMIC = {
    "x_scale.": "context_scale.",
    "h_scale.": "reference_scale.",
    "dwconv1.": "block.local1.conv.",
    "norm1.": "block.norm1.",
    "ls1.": "block.scale1.",
    "fusion.": "block.mixer.features.",
    "weight_value.": "block.mixer.values.",
    "weight_query.": "block.mixer.contmix.query.",
    "weight_key.": "block.mixer.contmix.key.",
    "weight_proj.": "block.mixer.contmix.projection.",
    "rpb1": "block.mixer.contmix.small_bias",
    "rpb2": "block.mixer.contmix.large_bias",
    "dyconv_proj.": "block.mixer.fuse.",
    "fusion_proj.": "block.mixer.fuse.",
    "gate.": "block.mixer.gate.",
    "lepe.": "block.mixer.local.",
    "se_layer.proj.1.": "block.mixer.excite.squeeze.",
    "se_layer.proj.3.": "block.mixer.excite.excite.",
    "proj.": "block.mixer.project.",
    "dwconv2.": "block.local2.conv.",
    "norm2.": "block.norm2.",
    "ls2.": "block.scale2.",
    "mlp.2.": "block.ffn.2.conv.",
    "mlp.": "block.ffn.",
}
# the entry that only a block of the kind has, behind the prefix of the block -> its names
_BLOCKS = {r"rpb1": _DYNAMIC, r"proj\.1\.lk_origin\.weight": _REPCONV}
_LARGE = re.compile(r"(?:^|\.)lk_origin\.weight$")
_SCALE = re.compile(r"(?:^|\.)(?:context_|reference_)?scale[12]?\.(?:weight|bias)$")
_LINEAR = re.compile(r"(?:fc|auxiliary_head\.3)\.weight$")


def from_authors(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Translate the entries of a file by the authors; the names of other files pass unchanged.

    What trained with branches is folded where `model` is folded, and the auxiliary head, which a
    folded network never has, is left out.
    """
    if any(_LARGE.search(key) for key in state):
        state = _renamed(state)
    if getattr(model, "reparameterized", False):
        state = {k: v for k, v in state.items() if not k.startswith("auxiliary_head.")}
    return fold_state(state, model)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    blocks = {
        match[1]: names
        for key in state
        for own, names in _BLOCKS.items()
        if (match := re.fullmatch(rf"(|.*\.){own}", key))
    }
    named = {}
    for key, value in state.items():
        prefix = next((prefix for prefix in blocks if key.startswith(prefix)), None)
        ours = key
        if prefix is not None:
            ours = prefix + _ours(key.removeprefix(prefix), blocks[prefix])
        ours = _branch(_ours(ours, _NETWORK) if prefix != "" else ours, state, key)
        named[ours] = _shaped(ours, value)
    return named


def _ours(key: str, names: Names) -> str:
    old = next((old for old in names if key.startswith(old)), "")
    return names.get(old, "") + key.removeprefix(old)


def _branch(key: str, state: dict[str, Tensor], theirs: str) -> str:
    """Rename the branches of a large kernel; one with a bias holds them all, folded."""
    folded = f"{theirs.rpartition('.')[0]}.bias" in state
    key = re.sub(r"\blk_origin\b", "conv" if folded else "branches.large.0", key)
    key = re.sub(r"\borigin_bn\b", "branches.large.1", key)
    key = re.sub(r"\bdil_conv_k(\d+_\d+)\b", r"branches.\1.0", key)
    return re.sub(r"\bdil_bn_k(\d+_\d+)\b", r"branches.\1.1", key)


def _shaped(key: str, value: Tensor) -> Tensor:
    if _SCALE.search(key):  # their scales are depthwise 1x1 convolutions
        return value.reshape(-1, 1, 1)
    return value.flatten(1) if _LINEAR.search(key) else value  # their heads are 1x1 convolutions
