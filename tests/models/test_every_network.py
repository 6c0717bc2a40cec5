"""What every registered network must obey; all but the counts on narrow copies, to be quick."""

import pytest
import torch
from torch import nn

from ctxbench.errors import UnknownNameError
from ctxbench.measure.flops import count
from ctxbench.models import MODELS, create_model, resolve, without_weights
from ctxbench.spec import options_of

NARROW = {
    "width": "16", "widths": "64,64,64,64,32,16", "latent": "32",
    "channels": "16,16,16,16", "heads": "1,1",
}  # fmt: skip

every_network = pytest.mark.parametrize("name", sorted(MODELS))


def _narrow(name):
    """Return the spec of the network with as many layers and few channels."""
    known = options_of(MODELS[name].build)
    return ":".join([name, *(f"{key}={value}" for key, value in NARROW.items() if key in known)])


def _sizes(name):
    """Return input sizes: a small one first, unless the network has its own."""
    side = MODELS[name].image_px
    if "progan" in name:  # makes images of one size
        return [(side, side)]
    return [(side, side), (side + 20, side)] if side == 300 else [(64, 64), (72, 72), (256, 192)]


@every_network
def test_builds_and_counts_without_weights(name):
    network = resolve(_narrow(name))
    model = without_weights(network)
    counted = count(model, *network.inputs(1, *_sizes(name)[0]))
    assert counted.params == sum(p.numel() for p in model.parameters()) > 0
    assert counted.macs > counted.params
    assert sum(p.untyped_storage().nbytes() for p in model.parameters()) < 1e6


@every_network
def test_without_weights_it_has_the_shapes_of_the_built_one(name):
    shapes = [
        {key: value.shape for key, value in model.state_dict().items()}
        for model in (without_weights(resolve(_narrow(name))), create_model(_narrow(name)))
    ]
    assert shapes[0] == shapes[1]


@every_network
def test_one_step_of_training_lowers_the_loss(name):
    torch.manual_seed(0)
    network, model = resolve(_narrow(name)), create_model(_narrow(name)).train()
    (zeros,) = network.inputs(2, *_sizes(name)[0])
    x = torch.randn_like(zeros)
    outputs = model(x).detach()
    loss_of = MODELS[name].loss
    target = torch.randn_like(outputs) if loss_of is None else outputs.argmin(1)
    loss_of = loss_of or (lambda model, x, target: nn.functional.mse_loss(model(x), target))
    loss = loss_of(model, x, target)
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    with torch.no_grad():
        slope = sum(float(g.square().sum()) for g in gradients)
        step = 0.01 * loss.item() / slope  # expected to take a hundredth off the loss
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.sub_(step * gradient)
    assert loss_of(model, x, target).item() < loss.item()


@every_network
@torch.inference_mode()
def test_samples_do_not_see_each_other_at_any_size(name):
    torch.manual_seed(0)
    network, model = resolve(_narrow(name)), create_model(_narrow(name)).double().eval()
    for size in _sizes(name):
        (zeros,) = network.inputs(2, *size)
        x = torch.randn_like(zeros, dtype=torch.float64)
        together, alone = model(x)[1:], model(x[1:])
        assert (together - alone).abs().max() <= 1e-10 * alone.abs().max()


@every_network
def test_names_its_source_and_a_baseline_that_exists(name):
    known = MODELS[name]
    assert known.source.startswith(("arXiv:", "ICLR 2023, OpenReview"))
    assert known.baseline is None or known.baseline in MODELS


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'coresnet5O'\. Did you mean 'coresnet50'\?"):
        create_model("coresnet5O")
