"""What chooses a backend: an operator, a spec, a `with`; and that all of them compute the same."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import ctxbench
from ctxbench.errors import BackendError, SpecError, UnknownNameError
from ctxbench.kernels import BACKENDS, KERNELS, choose, inside, use_backend, why_not_here
from ctxbench.models import MODELS, create_model, listing, resolve, without_weights
from ctxbench.models.listing import backends, suggestions
from ctxbench.ops import OPS, CoConv2d, ContextualConv2d, backends_in, operators_in, set_backend
from tests.models.test_every_network import _narrow, _sizes

TINY = "coresnet_tiny:width=4:block=basic"
WITH_OPERATORS = [
    name for name in sorted(MODELS) if backends_in(without_weights(resolve(_narrow(name))))
]


# the context manager


def test_inside_it_counts_and_outside_the_default_does():
    assert (inside(), choose(None)) == (None, "torch")
    with use_backend("reference"):
        assert (inside(), choose(None)) == ("reference", "reference")
    assert (inside(), choose(None)) == (None, "torch")


def test_it_counts_more_than_what_an_operator_was_built_with():
    assert choose("triton") == "triton"
    with use_backend("reference"):
        assert choose("triton") == "reference"


def test_of_two_the_inner_one_counts():
    with use_backend("triton"), use_backend("reference"):
        assert inside() == "reference"
    with use_backend("triton"):
        with use_backend("reference"):
            pass
        assert inside() == "triton"


def test_an_error_inside_ends_it():
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    assert inside() is None


def test_an_unknown_backend_is_met_with_the_nearest_and_changes_nothing():
    with (
        pytest.raises(UnknownNameError, match=r"Unknown backend 'tritn'\. Did you mean 'triton'"),
        use_backend("tritn"),
    ):
        raise AssertionError
    assert inside() is None


def test_it_holds_in_every_thread():
    found = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: found.append(inside()))
        thread.start()
        thread.join()
    assert found == ["reference"]


def test_threads_that_leave_in_the_order_in_which_they_came_leave_nothing_behind():
    first, second = use_backend("triton"), use_backend("reference")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert inside() == "reference"
    second.__exit__(None, None, None)
    assert inside() is None


def test_it_is_public():
    assert ctxbench.use_backend is use_backend


# compiled networks


@pytest.fixture
def displaced():
    torch.manual_seed(0)
    op = ContextualConv2d(4, 4, groups=4).eval()
    for parameter in op.parameters():
        nn.init.normal_(parameter, std=0.3)
    return op


@torch.no_grad()
def test_a_compiled_network_follows_it(displaced):
    torch._dynamo.reset()
    graphs = []

    def compiler(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    compiled = torch.compile(displaced, backend=compiler, fullgraph=True)
    x = torch.randn(2, 4, 6, 5)
    first = compiled(x)
    with use_backend("reference"):
        second = compiled(x)
    compiled(x)
    ours = [any("ctxbench" in target for target in targets) for targets in graphs]
    assert ours == [True, False]
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(first, displaced(x))


# networks in memory


def test_set_backend_tells_how_many_operators_there_are():
    model = create_model(TINY)
    assert set_backend(model, "reference") == len(list(operators_in(model))) == 8
    assert backends_in(model) == ["reference"]
    assert set_backend(model, None) == 8
    assert backends_in(model) == ["torch"]
    assert (set_backend(nn.Conv2d(1, 1, 1), "torch"), backends_in(nn.ReLU())) == (0, [])


def test_backends_in_tells_what_would_compute_here():
    model = nn.Sequential(CoConv2d(4, 4, backend="triton"), CoConv2d(4, 4))
    assert backends_in(model) == ["torch", "triton"]
    with use_backend("reference"):
        assert backends_in(model) == ["reference"]


def test_set_backend_refuses_an_unknown_name_and_changes_nothing():
    model = create_model(f"{TINY}:backend=reference")
    with pytest.raises(UnknownNameError, match="Did you mean 'torch'"):
        set_backend(model, "toch")
    assert backends_in(model) == ["reference"]


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), nn.DataParallel],
    ids=["deepcopy", "pickle", "DataParallel"],
)
def test_a_copy_keeps_its_backend(copied):
    model = create_model(f"{TINY}:backend=reference")
    assert backends_in(copied(model)) == ["reference"]


def test_a_state_dict_knows_nothing_of_backends():
    one, other = (create_model(f"{TINY}:backend={name}") for name in ("reference", "torch"))
    assert one.load_state_dict(other.state_dict())
    assert backends_in(one) == ["reference"]


# specs


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "spec",
    [TINY, "op/cgc:channels=16", "torchvision/resnet18:replace=coconv", f"{TINY}:prepared=true"],
)
def test_a_spec_chooses(spec, name):
    network = resolve(f"{spec}:backend={name}")
    assert network.spec == f"{spec}:backend={name}"
    assert backends_in(network.build()) == [name]


def test_a_spec_chooses_without_weights_too():
    assert backends_in(without_weights(resolve(f"{TINY}:backend=triton"))) == ["triton"]


def test_none_is_what_a_spec_says_without_the_option():
    assert backends_in(create_model(f"{TINY}:backend=none")) == ["torch"]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            "resnet_tiny:backend=torch",
            SpecError,
            "resnet_tiny holds no operator that backend=torch",
        ),
        (f"{TINY}:backend=tritn", UnknownNameError, "backend 'tritn'. Did you mean 'triton'"),
        ("op/coconv:backend=tritn", SpecError, "backend=tritn is not reference or torch or triton"),
        ("op/conv:backend=torch", UnknownNameError, "Unknown option of op/conv 'backend'"),
    ],
)
def test_a_backend_that_does_not_fit_is_one_line(spec, error, message):
    with pytest.raises(error) as raised:
        create_model(spec)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_backend_that_cannot_run_here_is_one_line():
    with pytest.raises(BackendError, match="backend='triton' .* Use backend='torch'") as raised:
        create_model(f"{TINY}:backend=triton").double()(torch.zeros(1, 3, 8, 8).double())
    assert "\n" not in str(raised.value)


# what is told


def test_the_option_is_offered_where_it_is_accepted():
    known = suggestions()
    values = ["none", "reference", "torch", "triton"]
    assert known["networks"]["coresnet50"]["backend"] == values
    assert known["operators"]["op/coconv"]["backend"] == values
    assert known["replacements"]["cgc"]["backend"] == values
    assert "backend" not in known["networks"]["resnet50"]


@pytest.mark.parametrize("name", ["coresnet_tiny", "op/coconv", "resnet_tiny", "op/conv"])
def test_the_listing_shows_the_option_where_it_is_accepted(name):
    (row,) = listing.listing(name)
    assert ("backend=none" in row["options"]) == ("co" in name and name != "op/conv")


def test_every_operator_with_backends_has_all_of_them():
    assert set(KERNELS) <= set(OPS)
    for name in KERNELS:
        assert tuple(KERNELS[name]) == BACKENDS
        assert any(operators_in(OPS[name].build()))
    assert not any(any(operators_in(OPS[name].build())) for name in set(OPS) - set(KERNELS))


def test_the_table_of_backends_says_why_one_cannot_run_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rows = {(row["operator"], row["backend"]): row["here"] for row in backends()}
    assert len(rows) == len(KERNELS) * len(BACKENDS)
    assert set(rows.values()) == {"yes"}
    monkeypatch.setattr("ctxbench.kernels._backend.find_spec", lambda name: None)
    assert why_not_here("triton") == "needs the package triton"
    rows = backends("op/coconv")
    assert [row["here"] for row in rows] == ["yes", "yes", "needs the package triton"]


def test_without_a_gpu_triton_cannot_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("ctxbench.kernels._backend.interprets", lambda: False)
    assert why_not_here("triton") == "needs an NVIDIA GPU"


# what is computed


@pytest.mark.parametrize("name", WITH_OPERATORS)
@torch.inference_mode()
def test_a_network_computes_the_same_by_reference_and_torch(name):
    torch.manual_seed(0)
    network, model = resolve(_narrow(name)), create_model(_narrow(name)).double().eval()
    for key, parameter in model.named_parameters():  # new layers displace and change nothing
        if key.endswith((".offset_net.3.weight", ".offset_net.3.bias", ".kernel_net.3.weight")):
            nn.init.normal_(parameter, std=0.3)
    (zeros,) = network.inputs(2, *_sizes(name)[0])
    x = torch.randn_like(zeros, dtype=torch.float64)
    found = {}
    for backend in ("reference", "torch"):
        with use_backend(backend):
            found[backend] = model(x)
    far = (found["torch"] - found["reference"]).abs().max()
    assert far <= 1e-10 * found["reference"].abs().max()
