"""OverLoCK against the authors' code and the published counts; folding, the loss, the options."""

import math

import pytest
import torch
from torch import nn

import ctxbench
from ctxbench import create_model, load_checkpoint
from ctxbench.errors import CheckpointError, SpecError
from ctxbench.models import MODELS, resolve, without_weights
from ctxbench.models.overlock import overlock_loss
from ctxbench.ops import DynamicBlock, RepConvBlock
from tests.conformance import vectors
from tests.ops.test_reparam import drawn

# every stage has a kernel of its own, and the focus stages more than one block
NARROW = (
    "overlock_xt:channels=4,8,8,16:heads=1,2:blocks=1,1,1,1:focus_blocks=2,2:num_classes=5"
    ":small_kernel=3"
)


def _narrow(options="", size=(64, 64)):
    torch.manual_seed(0)
    model = create_model(NARROW + options)
    return model, torch.randn(2, 3, *size)


def _params(model):
    return sum(p.numel() for p in model.parameters())


def test_equals_the_authors_network(tmp_path):
    _, state, (x,), expected = vectors.load("overlock_xt")
    torch.save(state, tmp_path / "authors.pth")
    model = create_model("overlock_xt").double().eval()
    load_checkpoint(model, tmp_path / "authors.pth")
    with torch.no_grad():
        assert vectors.relative_error(model(x), expected["logits"]) < 1e-9
        assert vectors.relative_error(model.reparameterize()(x), expected["logits"]) < 1e-9


# measured on the authors' code, in millions: with the auxiliary head, without it, folded
@pytest.mark.parametrize(
    ("size", "params"),
    [
        ("xt", (17.31, 16.97, 16.45)),
        ("t", (34.99, 34.48, 33.47)),
        ("s", (58.31, 57.80, 56.16)),
        ("b", (98.01, 97.43, 94.94)),
    ],
)
def test_has_the_published_parameters(size, params):
    for form, millions in zip(("", ":aux_head=false", ":reparam=true"), params, strict=True):
        model = without_weights(resolve(f"overlock_{size}{form}"))
        assert _params(model) / 1e6 == pytest.approx(millions, abs=0.0051)


# measured on the authors' code, in GMAC at 224 px: convolutions and linears in the training form
# and folded, then with the dynamic part
@pytest.mark.parametrize(
    ("size", "trained", "folded", "dynamic"),
    [
        ("xt", 2.82, 2.66, 2.70),
        ("t", 5.91, 5.57, 5.64),
        pytest.param("s", 10.31, 9.76, 9.89, marks=pytest.mark.slow),
        pytest.param("b", 17.77, 16.90, 17.09, marks=pytest.mark.slow),
    ],
)
def test_has_the_published_cost(size, trained, folded, dynamic):
    for form, gmac in (("", trained), (":reparam=true", folded)):
        model = without_weights(resolve(f"overlock_{size}{form}"))
        counted = ctxbench.count(model, torch.zeros(1, 3, 224, 224))
        kinds = counted.work.macs_by_kind
        assert (kinds["conv"] + kinds["linear"]) / 1e9 == pytest.approx(gmac, abs=0.0051)
    assert counted.macs / 1e9 == pytest.approx(dynamic, abs=0.0051)


def test_has_exactly_the_parameters_of_the_authors_network():
    model = without_weights(resolve("overlock_xt"))
    assert _params(model) == 17_307_272


def test_the_number_of_classes_is_an_option():
    model = create_model("overlock_xt:num_classes=37")
    assert model.fc.out_features == model.auxiliary_head[-1].out_features == 37


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (72, 72), (256, 192)])
def test_takes_images_of_any_size(size):
    model, x = _narrow(size=size)
    with torch.no_grad():
        logits, auxiliary = model.eval().logits_with_auxiliary(x)
        assert logits.shape == auxiliary.shape == (2, 5)
        assert logits.isfinite().all()
        torch.testing.assert_close(model(x), logits)


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_folding_keeps_the_function(size, tmp_path):
    model = drawn(create_model(NARROW))
    torch.save(model.state_dict(), tmp_path / "trained.pth")
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        loaded = create_model(f"{NARROW}:reparam=true").double().eval()
        load_checkpoint(loaded, tmp_path / "trained.pth")
        folded = model.reparameterize()
        assert folded is model
        assert vectors.relative_error(folded(x), expected) < 1e-10
        assert vectors.relative_error(loaded(x), expected) < 1e-10


def test_the_folded_network_has_the_entries_of_the_one_built_so(tmp_path):
    folded, built = create_model(NARROW).reparameterize(), create_model(f"{NARROW}:reparam=true")
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (folded, built)]
    assert shapes[0] == shapes[1]
    torch.save(folded.state_dict(), tmp_path / "folded.pth")
    load_checkpoint(built, tmp_path / "folded.pth")


def test_a_file_with_an_auxiliary_head_needs_the_network_to_have_it(tmp_path):
    torch.save(create_model(NARROW).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="unexpected: auxiliary_head"):
        load_checkpoint(create_model(f"{NARROW}:aux_head=false"), tmp_path / "w.pth")


def test_a_folded_file_fits_no_network_with_branches(tmp_path):
    torch.save(create_model(f"{NARROW}:reparam=true").state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"unexpected: stage1.0.spatial.conv.weight"):
        load_checkpoint(create_model(NARROW), tmp_path / "w.pth")


class _Fixed(nn.Module):
    auxiliary_head = True

    def __init__(self, logits, auxiliary):
        super().__init__()
        self.both = logits, auxiliary

    def logits_with_auxiliary(self, x):
        return self.both


@pytest.mark.parametrize("target", [torch.tensor([0]), torch.tensor([[1.0, 0.0]])])
def test_the_loss_by_hand(target):
    # softmax (1/4, 3/4) and (1/2, 1/2): log 4 and log 2 for class 0
    model = _Fixed(torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2))
    x = torch.zeros(1, 3, 8, 8)
    assert overlock_loss(model, x, target).item() == pytest.approx(math.log(4) + 0.4 * math.log(2))
    assert overlock_loss(model, x, target, auxiliary_weight=0).item() == pytest.approx(math.log(4))


def test_without_an_auxiliary_head_the_loss_is_the_cross_entropy():
    model, x = _narrow(":aux_head=false")
    target = torch.tensor([1, 2])
    expected = nn.functional.cross_entropy(model.eval()(x), target)
    torch.testing.assert_close(overlock_loss(model, x, target), expected)
    with pytest.raises(ValueError, match="no auxiliary head. Build it with aux_head=true"):
        model.logits_with_auxiliary(x)


def test_training_lowers_the_loss_and_reaches_every_parameter():
    torch.manual_seed(0)
    model = create_model("overlock_tiny:drop_path=0.1").train()
    loss = MODELS["overlock_tiny"].loss
    x, target = torch.randn(8, 3, 32, 32), torch.arange(8)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        losses.append(loss(model, x, target))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1].item() < 0.7 * losses[0].item()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_drop_path_rises_over_the_blocks_as_they_run():
    model, x = _narrow(":drop_path=0.7")
    order = []
    for block in model.modules():
        if isinstance(block, RepConvBlock | DynamicBlock):
            block.register_forward_hook(lambda block, *_: order.append(block))
    model.eval()(x)
    blocks = [block if isinstance(block, RepConvBlock) else block.block for block in order]
    rates = [getattr(block.drop_path, "p", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_drop_path_acts_in_training_alone():
    model, x = _narrow(":drop_path=0.9")
    frozen = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model.train()
    for norm in frozen:
        norm.eval()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for options in ("", ":checkpointing=true"):
        model, x = _narrow(f"{options}:drop_path=0.3")
        model, x = model.double().train(), x.double()
        torch.manual_seed(1)
        overlock_loss(model, x, torch.tensor([1, 2])).backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("channels=8,8,8", "channels=8,8,8 is no list of 4"),
        ("focus_blocks=1", "focus_blocks=1 is no list of 2"),
        ("channels=8,8,8,2", "channels=8,8,8,2 is out of range. .* at least 4 last"),
        ("drop_path=1.0", "drop_path=1.0 is out of range. Give a rate"),
        ("heads=5,6", "channels=256 and heads=5. Give a multiple of 20"),
        ("kernels=17,15,11,7", "kernels=17,15,11,7: 11 is unknown. Give 7, 13"),
        ("blocks=2,0,3,2", "blocks=2,0,3,2 is out of range"),
    ],
)
def test_a_mistake_is_named(options, message):
    with pytest.raises(SpecError, match=f"overlock_xt: .*{message}"):
        create_model(f"overlock_xt:{options}")
