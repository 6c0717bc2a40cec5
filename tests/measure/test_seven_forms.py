"""Seven ways to write a convolution, each counted to the unit against a closed form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import DeformConv2d, deform_conv2d

from ctxbench import count
from ctxbench.models import resolve, without_weights
from tests.measure.nets import Calls

B_C_H_W = [(batch, 6, 9, 7) for batch in (1, 4)]

every_batch = pytest.mark.parametrize("size", B_C_H_W)


@pytest.mark.parametrize("batch", [1, 4])
def test_resnet50(batch):
    """Table 1 of the ResNet paper, layer by layer; 4 089 184 256 for one image."""
    products = {112: 49 * 3 * 64, 56: 0, 28: 0, 14: 0, 7: 0}  # side of the output -> each pixel's
    entering = 64
    for side, width, blocks in ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3)):
        leaving = 4 * width
        first = side if side == 56 else 2 * side  # stride 2 is in the 3x3 convolution
        products[first] += entering * width
        products[side] += 9 * width * width + width * leaving + entering * leaving
        products[side] += (blocks - 1) * (leaving * width + 9 * width * width + width * leaving)
        entering = leaving
    expected = sum(side * side * each for side, each in products.items()) + 2048 * 1000
    assert expected == 4_089_184_256

    model = without_weights(resolve("resnet50"))
    assert count(model, torch.zeros(batch, 3, 224, 224)).macs == batch * expected


@every_batch
def test_deformable_convolution_as_a_module(size):
    b, c, h, w = size
    offsets = nn.Conv2d(c, 2 * 3 * 3, 3, padding=1)
    deform = DeformConv2d(c, 10, 3, padding=1, groups=2)
    net = Calls(lambda net, x: net.deform(x, net.offsets(x)), offsets=offsets, deform=deform)
    counted = count(net, torch.randn(size))
    assert counted.operators == {
        "conv": b * 18 * c * 9 * h * w,
        "deform_conv": b * 10 * (c // 2) * 9 * h * w,
    }
    assert counted.work.elements["sampling"] == b * c * 9 * h * w


@every_batch
def test_deformable_convolution_as_a_function(size):
    b, c, h, w = size
    net = Calls(lambda x, offset, weight, mask: deform_conv2d(x, offset, weight, mask=mask))
    places = (h - 3 + 1) * (w - 5 + 1)
    inputs = (
        torch.randn(size),
        torch.randn(b, 2 * 15, h - 3 + 1, w - 5 + 1),
        torch.randn(10, c, 3, 5),
        torch.randn(b, 15, h - 3 + 1, w - 5 + 1),
    )
    assert count(net, *inputs).operators == {"deform_conv": b * 10 * c * 15 * places}


@every_batch
def test_convolution_with_a_generated_weight(size):
    """One weight for each image, applied as groups."""
    b, c, h, w = size

    def forward(net, x, context_BD):
        weight = net.generator(context_BD).view(b * 8, c, 3, 3)
        y = F.conv2d(x.reshape(1, b * c, h, w), weight, padding=1, groups=b)
        return y.view(b, 8, h, w)

    counted = count(
        Calls(forward, generator=nn.Linear(5, 8 * c * 9)), torch.randn(size), torch.randn(b, 5)
    )
    assert counted.operators == {"linear": b * 5 * 8 * c * 9, "conv": b * 8 * c * 9 * h * w}


def _patches(x):
    """Return the 5x5 neighbourhood of every pixel, (B, C, 25, H, W)."""
    return F.unfold(x, 5, padding=2).unflatten(1, (x.shape[1], 25)).unflatten(3, x.shape[2:])


@every_batch
def test_kernel_of_each_pixel_as_einsum(size):
    b, c, h, w = size
    net = Calls(lambda x, kernel: torch.einsum("bckhw,bkhw->bchw", _patches(x), kernel))
    counted = count(net, torch.randn(size), torch.randn(b, 25, h, w))
    assert counted.operators == {"einsum": b * c * 25 * h * w}


@every_batch
def test_kernel_of_each_pixel_as_product_and_sum(size):
    b, c, h, w = size
    net = Calls(lambda x, kernel: (_patches(x) * kernel.unsqueeze(1)).sum(2))
    counted = count(net, torch.randn(size), torch.randn(b, 25, h, w))
    assert counted.operators == {"contraction": b * c * 25 * h * w}


@every_batch
def test_gated_kernel_of_each_image_as_unfold_and_matmul(size):
    b, c, h, w = size

    def forward(net, x):
        gate = net.gate(x.mean((2, 3))).sigmoid().unsqueeze(1)  # (B, 1, C * 9)
        weight = net.weight.weight * gate  # (B, O, C * 9)
        return (weight @ F.unfold(x, 3, padding=1)).view(b, 8, h, w)

    net = Calls(forward, gate=nn.Linear(c, c * 9), weight=nn.Linear(c * 9, 8, bias=False))
    counted = count(net, torch.randn(size))
    assert counted.operators == {"linear": b * c * c * 9, "matmul": b * 8 * c * 9 * h * w}
    assert counted.work.elements["elementwise"] == b * 8 * c * 9
