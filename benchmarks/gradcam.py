"""Our Grad-CAM beside those of grad-cam and torch-cam, on the same networks in one run.

    python benchmarks/gradcam.py
    python benchmarks/gradcam.py --models overlock_xt --batches 8 --runs 20

Each is asked for the same: maps of given classes at the size of the images. All know the layer,
and each has a copy of the network, in eval mode; the libraries keep their hooks on theirs. They
take turns, in one process with the same threads. A ratio compares two calls of the same turn: above
1, ours is faster. What each gives is compared, too: scaled to 0..1, as the libraries scale it.
"""

import argparse
import copy
from pathlib import Path
from statistics import median

import numpy as np
import pytorch_grad_cam
import torch
import torchcam.methods
from _side_by_side import compare, time_in_turns
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.nn import functional as F

from ctxbench.models import create_model
from ctxbench.records import append_rows
from ctxbench.visualize.gradcam import gradcam, upsampled
from ctxbench.visualize.inside import target_layer

MODELS = ("torchvision/resnet18", "coresnet50", "ctx_resnet50", "overlock_xt")
SEED = 0
_FEWEST = 3  # turns


def scaled(maps):
    """Return maps between 0 and 1, as both libraries return them."""
    maps = maps - maps.min((1, 2), keepdims=True)
    return maps / (maps.max((1, 2), keepdims=True) + 1e-7)


def tasks_of(model, layer, x, classes):
    """Return what each does in a turn, by its name."""
    size = tuple(x.shape[2:])
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    theirs = pytorch_grad_cam.GradCAM(first, [first.get_submodule(layer)])
    targets = [ClassifierOutputTarget(index) for index in classes]
    extractor = torchcam.methods.GradCAM(second, second.get_submodule(layer))

    def ours():
        return upsampled(gradcam(model, x, layer=layer, classes=classes).maps, size)

    def grad_cam():
        return theirs(x, targets)

    def torch_cam():
        (maps,) = extractor(classes, second(x))
        large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
        return large[:, 0].detach().numpy()

    return {"ours": ours, "grad_cam": grad_cam, "torch_cam": torch_cam}


def measure(spec, batch, image_px, runs):
    """Return the row of a network and batch."""
    torch.manual_seed(SEED)
    model = create_model(spec).eval()
    x = torch.randn(batch, 3, image_px, image_px)
    with torch.no_grad():
        classes = model(x).argmax(1).tolist()
    layer = target_layer(model, x[:1])
    seconds, found = time_in_turns(tasks_of(model, layer, x, classes), runs)
    row = {"model": spec, "layer": layer, "batch": batch, "image_px": image_px, "runs": runs,
           "threads": torch.get_num_threads()}  # fmt: skip
    mine = scaled(found["ours"])
    for name, values in seconds.items():
        row[f"{name}_image_ms"] = 1000 * median(values) / batch
        if name != "ours":
            ratio, low, high = compare(values, seconds["ours"])
            row |= {f"{name}_ratio": ratio, f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_difference"] = float(np.abs(scaled(found[name]) - mine).max())
    return row | {"samples_s": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="specs")
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--image", type=int, default=224, help="side in px; default 224")
    parser.add_argument("--runs", type=int, default=9, help="counted turns; default 9")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for spec in given.models:
        for batch in given.batches:
            runs = max(given.runs // batch, _FEWEST)  # a large batch takes long
            row = measure(spec, batch, given.image, runs)
            append_rows("gradcam_speed", [row], raw=given.out / "raw", seed=SEED)
            others = ", ".join(
                f"{name} {row[f'{name}_image_ms']:.1f} ms (x{row[f'{name}_ratio']:.2f} "
                f"[{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}], maps within "
                f"{row[f'{name}_difference']:.1g})"
                for name in ("grad_cam", "torch_cam")
            )
            print(f"{spec}, batch {batch}: ours {row['ours_image_ms']:.1f} ms an image, {others}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
