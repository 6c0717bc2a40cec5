"""One small member of each family, with weights of which none is zero."""

import copy

import torch

from ctxbench.models import MODELS, resolve

FAMILIES = {
    "resnet": "resnet_tiny:blocks=1,1:width=8",
    "coresnet": "coresnet_tiny:blocks=1,1:levels=4,3:width=8",
    "cgc_resnet": "cgc_resnet_tiny:blocks=1,1:width=16",
    "preact_resnet": "preact_resnet18:blocks=1,1:width=8",
    "se_resnet": "se_resnet50:blocks=1,1:width=8",
    "nonlocal_resnet": "nl_resnet50:blocks=1,1:width=8",
    "convnext": "convnext_nano:blocks=1,1",
    "ctx_resnet": "ctx_resnet_tiny:blocks=1,1:contextual_stages=2:prior_sizes=5:width=16",
    "ctx_convnext": "ctx_convnext_nano:blocks=1,1:contextual_stages=2:prior_sizes=5",
    "overlock": "overlock_tiny:small_kernel=3",
    "ssd": "ssd300_coresnet50:blocks=1,1,1:width=8",
    "progan": "coprogan128:widths=32,32,16,16,8,8:latent=16",
}


# by default the systems and their baselines; the other families are among the slow tests
CORE = {"resnet", "convnext", "coresnet", "cgc_resnet", "ctx_resnet"}
# as many operations as taps: tracing and translating them takes half a minute
LARGE = {"ctx_convnext", "overlock"}


def family(spec):
    return MODELS[spec.partition(":")[0]].build.__module__.rpartition(".")[2]


def built(spec, px=None):
    """Return a network in eval mode and a batch of 2 for it."""
    torch.manual_seed(0)
    network = resolve(spec)
    model = network.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # zeros at the start would hide what is generated
            parameter.add_(0.02 * torch.randn_like(parameter))
    (zeros,) = network.inputs(2, *(2 * (px or network.image_px,)))
    return model, torch.randn_like(zeros)


def error(theirs, ours):
    """Return the largest difference, as a share of the largest value."""
    assert theirs.shape == ours.shape
    return ((theirs - ours).abs().max() / ours.abs().max()).item()


def rounding(model, x):
    """Return the error that float32 has by itself: deep networks with new weights enlarge it."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        return error(model(x).double(), exact)
