"""What pictures of networks that never were say, as `ctxbench visualize` would save it."""


def cue(run, share, shuffled, **changes):
    row = {"network": "Net", "model": f"run:{run}", "weights": f"trained: run {run}"}
    row |= {"measure": "gradient", "layer": None, "part": "cue", "images": 8, "plain_percent": None}
    return {
        **row,
        "share_percent": share,
        "shuffled_percent": shuffled,
        "area_percent": 2.0,
        **changes,
    }


def field(model, **changes):
    row = {"network": model, "model": model, "weights": "random weights (seed 0)"}
    row |= {"layer": "layer4", "images": 2, "height_px": 32, "width_px": 48}
    row |= {"map_height": 4, "map_width": 6, "field_whole": False}
    row |= {"field_height_px": 21, "field_width_px": 23}
    for share, side in ((20, 5.0), (50, 9.0), (99, 19.0)):
        row |= {f"square{share}_px": side, f"square{share}_low_px": side - 1}
        row |= {f"square{share}_high_px": side + 1}
    return {**row, **changes}


def cam(image, **changes):
    row = {"network": "net", "model": "net", "weights": "random weights (seed 0)"}
    row |= {"method": "gradcam", "layer": "layer4", "image": image, "deletion": 0.2}
    row |= {"random_deletion": 0.4, "insertion": 0.8, "random_insertion": 0.6}
    return {**row, **changes}


def samples(image, **changes):
    row = {"network": "net", "model": "net", "weights": "random weights (seed 0)"}
    row |= {"layer": "conv", "image": image, "mean_displacement_px": 1.0}
    row |= {"largest_displacement_px": 3.0, "share_outside": 0.1, "regular_share_outside": 0.0}
    return {**row, "mean_mask": 0.5, "constant_share": None, **changes}


def kernel(image, **changes):
    row = {"network": "net", "model": "net", "weights": "random weights (seed 0)"}
    row |= {"operator": "ContMix", "layer": "mix", "image": image, "images": 1}
    return {**row, "statistics": {"small_evenness": 0.5}, **changes}


def prior(image, ranks, **changes):
    row = {"network": "net", "model": "net", "weights": "random weights (seed 0)", "image": image}
    row |= {"stages": ["stage 1", "stage 2"], "prior_sizes": [3, None], "true_rank": ranks}
    row |= {"predicted": "cat", "swapped_predicted": "dog", "exchanged": ["all stages"]}
    return {**row, "score_change": [0.5], **changes}


SPEED = {"model": "net", "layer": "layer4", "batch": 1, "image_px": 32, "runs": 9}
SPEED |= {"ours_image_ms": 2.0, "grad_cam_ratio": 2.0, "grad_cam_low": 1.8, "grad_cam_high": 2.2}
SPEED |= {"torch_cam_ratio": 1.0, "torch_cam_low": 0.9, "torch_cam_high": 1.1}

PICTURES = {
    "cues": [cue("a", 10.0, 2.0), cue("b", 12.0, 2.0), cue("c", 14.0, 2.0)],
    "erf": [field("net")],
    "gradcam": [cam("one"), cam("two", deletion=0.4)],
    "offsets": [samples("one"), samples("two", mean_displacement_px=2.0)],
    "kernels": [kernel("one"), kernel("two", statistics={"small_evenness": 0.7})],
    "priors": [prior("one", [4, 1]), prior("two", [2, 1], swapped_predicted="cat")],
    "gradcam_speed": [SPEED],
}
