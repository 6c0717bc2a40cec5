"""Vectors of the authors' code: deterministic weights and inputs, and the outputs they gave.

Every tensor is drawn from a PCG64 stream seeded with the CRC-32 of its own name, so that a file of
names and shapes is enough to make the weights again, in any order, on any machine.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def load(name):
    """Return (description, authors' state dict, inputs, outputs) of a vector, in float64."""
    described = json.loads((HERE / f"{name}.json").read_text())
    state = {key: _tensor(key, shape) for key, shape in described["state_dict"].items()}
    named = described.get("inputs") or [described["input"]]
    inputs = [torch.from_numpy(_stream(i["name"]).standard_normal(i["shape"])) for i in named]
    with np.load(HERE / f"{name}.npz") as outputs:
        expected = {key: torch.from_numpy(outputs[key]) for key in outputs.files}
    return described, state, inputs, expected


def relative_error(actual, expected):
    """Return max |actual - expected| / max |expected|."""
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


def _stream(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def _tensor(name, shape):
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if not shape:
        return torch.ones(shape, dtype=torch.float64)
    unit = _stream(name).random(shape)
    if name.endswith("running_var"):
        return torch.from_numpy(0.5 + unit)
    if len(shape) == 1:
        values = 0.25 + 0.5 * unit if name.endswith("weight") else 0.2 * unit - 0.1
        return torch.from_numpy(values)
    bound = np.sqrt(3.0 / max(1, np.prod(shape[1:])))
    scale = 0.1 if name.endswith("offset_layer.3.weight") else 1.0
    return torch.from_numpy(scale * (2.0 * unit - 1.0) * bound)
