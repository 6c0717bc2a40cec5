"""ONNX files compute in onnxruntime what the networks do."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctxbench import export_onnx
from ctxbench.errors import CheckpointError, MissingPackageError
from ctxbench.export import ONE_BATCH_SIZE, ExportError
from ctxbench.models import MODELS
from tests.ecosystem.networks import CORE, FAMILIES, built, error, family, rounding
from tests.models.test_every_network import _narrow, _sizes

pytest.importorskip("onnxscript", reason="onnxscript is an optional extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")


def _run(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # it would tell of each initialiser that it tidies away
    session = onnxruntime.InferenceSession(path, options)
    return torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])


def _check(tmp_path, model, x, *, dynamic_batch):
    path = tmp_path / "network.onnx"
    export_onnx(model, path, x, dynamic_batch=dynamic_batch)
    most = max(1e-4, 10 * rounding(model, x))
    with torch.no_grad():
        for batch in [x, x[:1], torch.cat([x] * 4)] if dynamic_batch else [x]:
            assert error(_run(path, batch), model(batch)) < most


@pytest.mark.parametrize("name", sorted(CORE))
def test_a_file_computes_the_same(tmp_path, name):
    _check(tmp_path, *built(FAMILIES[name]), dynamic_batch=name not in ONE_BATCH_SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_has_a_file(tmp_path, name):
    model, x = built(_narrow(name), px=_sizes(name)[0][0])
    _check(tmp_path, model, x, dynamic_batch=family(name) not in ONE_BATCH_SIZE)


@pytest.mark.parametrize("name", sorted(ONE_BATCH_SIZE))
def test_a_family_of_one_batch_size_says_so(tmp_path, name):
    with pytest.raises(
        ExportError, match=r"^ResNet: .*fixed number of groups.*dynamic_batch=False"
    ):
        export_onnx(*built(FAMILIES[name])[:1], tmp_path / "x.onnx", built(FAMILIES[name])[1])
    assert list(tmp_path.iterdir()) == []


class Sorted(nn.Module):
    def forward(self, x):
        return torch.cat([x.argsort(stable=True, dim=1, descending=down) for down in (True, False)])


def test_equal_values_keep_their_order(tmp_path):
    x = torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    export_onnx(Sorted(), tmp_path / "sorted.onnx", x, dynamic_batch=False)
    assert torch.equal(_run(tmp_path / "sorted.onnx", x), Sorted()(x))


class Bags(nn.Module):
    """Sums that the networks do not use, and that are not translated."""

    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.rows = nn.Parameter(torch.ones(4, 3))

    def forward(self, x):
        return F.embedding_bag(x, self.rows, **self.options)


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (torch.tensor([0, 1, 2, 3]), {"offsets": torch.tensor([0, 3]), "mode": "sum"}),
        (torch.tensor([[0, 1], [2, 3]]), {"mode": "mean"}),
    ],
)
def test_other_bags_are_refused(tmp_path, x, options):
    with pytest.raises(ExportError, match="^Bags: ONNX has a form for weighted sums"):
        export_onnx(Bags(**options), tmp_path / "bags.onnx", x, dynamic_batch=False)


class Spectral(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


def test_an_operation_that_onnx_lacks_is_said_in_one_line(tmp_path):
    with pytest.raises(ExportError, match=r"^ONNX cannot say what is computed: [^\n]+$"):
        export_onnx(Spectral(), tmp_path / "x.onnx", torch.eye(3)[None], dynamic_batch=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_overwritten_on_request_alone(tmp_path):
    model, x = nn.Flatten(), torch.zeros(2, 3, 4)
    path = tmp_path / "x.onnx"
    path.write_text("mine")
    with pytest.raises(CheckpointError, match="there already.*overwrite=True"):
        export_onnx(model, path, x)
    assert path.read_text() == "mine"
    export_onnx(model, path, x, overwrite=True)
    assert _run(path, x).shape == (2, 12)


def test_without_the_extra_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'ctxbench\[onnx\]'"):
        export_onnx(nn.Flatten(), tmp_path / "x.onnx", torch.zeros(2, 3))


def test_weights_beyond_one_file_are_refused(tmp_path):
    with torch.device("meta"):
        large = nn.Linear(2**15, 2**15)
    with pytest.raises(ExportError, match=r"Linear has 4\.0 GiB of weights; an ONNX file holds"):
        export_onnx(large, tmp_path / "x.onnx", torch.zeros(1, 2**15))
    assert list(tmp_path.iterdir()) == []
