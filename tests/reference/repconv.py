"""The RepConv block and the parts that it shares with the dynamic block, written out.

`p` is a mapping of names to tensors; the names are those of the entries of a block.
"""

import math

import torch

from tests.reference.dilated_reparam import batch_norm, depthwise, dilated_reparam, per_channel


def repconv(x, p):
    """x (B, C, H, W) -> (B, C, H, W); without entries `scale.` the identity is not scaled."""
    x = local(x, p, "local")
    y = layer_norm(x, p, "norm")
    y = norm(large(y, p, "spatial"), p, "spatial_norm")
    y = feed_forward(squeeze_excite(y, p, "excite"), p, "ffn")
    return scaled(x, p, "scale") + y if "scale.weight" in p else x + y


def local(x, p, name):
    """Return x + DW3x3(x)."""
    return x + depthwise(x, p[f"{name}.conv.weight"], bias=p[f"{name}.conv.bias"])


def large(x, p, name):
    """Return the large kernel and its dilated branches, summed."""
    start = f"{name}.branches."
    labels = {key.removeprefix(start).split(".")[0] for key in p if key.startswith(start)}
    branches = [
        (
            p[f"{start}{label}.0.weight"],
            1 if label == "large" else int(label.split("_")[1]),
            _statistics(p, f"{start}{label}.1"),
        )
        for label in sorted(labels)
    ]
    return dilated_reparam(x, branches)


def norm(x, p, name):
    """Return batch normalisation by running statistics."""
    return batch_norm(x, _statistics(p, name))


def layer_norm(x, p, name):
    """Return every position's channels normalised."""
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    normed = (x - mean) / (variance + 1e-6) ** 0.5
    return normed * per_channel(p[f"{name}.weight"]) + per_channel(p[f"{name}.bias"])


def conv1x1(x, p, name):
    """Return the 1x1 convolution, with its bias if it has one."""
    y = torch.einsum("oc,bchw->bohw", p[f"{name}.weight"][:, :, 0, 0], x)
    return y + per_channel(p[f"{name}.bias"]) if f"{name}.bias" in p else y


def gelu(x):
    """Return the exact GELU."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def grn(x, p, name):
    """Return the global response normalisation."""
    length = (x**2).sum((2, 3), keepdim=True) ** 0.5
    share = length / (length.mean(1, keepdim=True) + 1e-6)
    return (p[f"{name}.gamma"] * share + 1) * x + p[f"{name}.beta"]


def squeeze_excite(x, p, name):
    """Return the channels, gated by what their means say."""
    means = x.mean((2, 3), keepdim=True)
    hidden = gelu(conv1x1(means, p, f"{name}.squeeze"))
    return x / (1 + torch.exp(-conv1x1(hidden, p, f"{name}.excite")))


def feed_forward(x, p, name):
    """Return the 1x1 convolutions with GELU, I + DW3x3 and GRN between them."""
    y = local(gelu(conv1x1(x, p, f"{name}.0")), p, f"{name}.2")
    return conv1x1(grn(y, p, f"{name}.3"), p, f"{name}.4")


def scaled(x, p, name):
    """Return a * x + b, for each channel."""
    return x * per_channel(p[f"{name}.weight"]) + per_channel(p[f"{name}.bias"])


def _statistics(p, name):
    return [p[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
