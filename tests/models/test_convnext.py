"""ConvNeXt against torchvision's, which holds the same network in other words."""

import pytest
import torch
from torchvision import models

from ctxbench import count, create_model
from ctxbench.errors import SpecError
from ctxbench.models import resolve, without_weights

_NAMES = {
    ".block.0.": ".dwconv.",
    ".block.2.": ".norm.",
    ".block.3.": ".pwconv1.",
    ".block.5.": ".pwconv2.",
    ".layer_scale": ".gamma",
}


def _our_name(key):
    """Translate torchvision's name of a parameter: features.0, 2, 4, 6 are what stands between."""
    if key.startswith("classifier"):
        return key.replace("classifier.0.", "norm.").replace("classifier.2.", "head.")
    _, number, rest = key.split(".", 2)
    stage, is_stage = divmod(int(number), 2)
    if not is_stage:
        return f"downsample_layers.{stage}.{rest}"
    for theirs, ours in _NAMES.items():
        rest = f".{rest}".replace(theirs, ours).removeprefix(".")
    return f"stages.{stage}.{rest}"


@torch.no_grad()
def test_equals_torchvision():
    torch.manual_seed(0)
    theirs, ours = models.convnext_tiny().eval(), create_model("convnext_tiny").eval()
    for name, parameter in theirs.named_parameters():
        if "layer_scale" in name:
            parameter.uniform_(0.5, 1.5)
    state = {_our_name(key): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(
        {key: value.reshape(ours.state_dict()[key].shape) for key, value in state.items()}
    )
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_costs_what_torchvision_does(size):
    x = torch.zeros(1, 3, 224, 224)
    ours = count(without_weights(resolve(f"convnext_{size}")), x)
    theirs = count(without_weights(resolve(f"torchvision/convnext_{size}")), x)
    assert (ours.params, ours.macs) == (theirs.params, theirs.macs)


def test_drop_path_leaves_branches_out_in_training_only():
    torch.manual_seed(0)
    model, x = create_model("convnext_nano:drop_path=0.9"), torch.randn(4, 3, 32, 32)
    rates = [getattr(block.drop_path, "p", 0.0) for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.9 * i / 5 for i in range(6)])
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_options_that_do_not_fit_are_named():
    with pytest.raises(
        SpecError, match=r"drop_path=1.0 is out of range. Give a rate from 0 to below 1"
    ):
        create_model("convnext_nano:drop_path=1.0")
