"""What the page shows, in which order: data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ctxbench.report.page._cells import Range
from ctxbench.report.page._views import Show

# tables whose lines stand in another one, with more beside them
ELSEWHERE = {
    "context_time": "context_cost",
    "cue_findings": "cue_shares",
    "ablation_findings": "expectations",
    "ablation_errors": "ablations",
    "verdicts": "verdicts_by_paper",
}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: the kinds of rows it is made of, its tables and figures, in order.

    A figure is named by a plain string. `gallery` are the pictures of networks.
    """

    key: str
    title: str
    about: str
    kinds: tuple[str, ...]
    items: tuple[Show | str, ...]
    gallery: tuple[str, ...] = field(default=())


_RATIO = Range("ratio", "ratio_low", "ratio_high")
_MEDIAN = Range("median_ms", "low_ms", "high_ms")
_DIFFERENCE = Range("difference_points", "difference_low", "difference_high", form="signed")

SECTIONS = (
    Section(
        "claims",
        "Claims",
        "Every figure that the papers publish about these networks, and what became of it here. "
        "What can be counted is counted under the paper's own convention; what needs training at "
        "ImageNet's scale is listed and not judged.",
        ("claims",),
        (
            Show("verdicts_by_paper", "Verdicts, by paper"),
            Show(
                "differences",
                "What is not reproduced to the digit",
                "Equal figures of several tables share a line.",
                ("paper", "rows", "metric", "published", "ours", "apart (%)", "verdict",
                 "tried besides"),
            ),
            "claims",
            Show(
                "claims",
                "All claims",
                "The address of the page keeps the filters, so that a view can be linked.",
                ("paper", "table", "row", "model", "metric", "published", "ours", "difference",
                 "convention", "verdict"),
                ("paper", "metric", "verdict"),
            ),
        ),
    ),
    Section(
        "costs",
        "Costs",
        "Parameters and operations of each network, counted from what it computes. A MAC is one "
        "multiplication with its addition; the other columns are other people's conventions on "
        "top of the same count.",
        ("costs",),
        (
            Show(
                "headline",
                "Published costs beside ours, where a paper compares two networks",
                "Networks with equal cells share a line.",
                ("paper", "networks", "params_published", "params_ours", "params_verdict",
                 "gflops_published", "gflops_ours", "gflops_verdict", "compared"),
                ("paper",),
                {"params_ours": "params (M), ours", "params_verdict": "params, verdict",
                 "gflops_ours": "GFLOPs, ours", "gflops_verdict": "GFLOPs, verdict"},
            ),
            Show("costs", "Costs of every network"),
        ),
    ),
    Section(
        "parity",
        "Parity per layer",
        "A network and its baseline, layer by layer: context for free has to hold in each of them, "
        "not only in the sum.",
        ("layers",),
        (
            "parity",
            Show(
                "layers",
                "Layers side by side",
                "A layer that one of the two lacks has nothing in its columns.",
                ("layer", "kind", "against_kind", "params", "against_params", "params_more",
                 "macs", "against_macs", "macs_more"),
                ("model", "input_shape", "kind"),
                {"against": "baseline", "against_kind": "kind in the baseline",
                 "against_params": "baseline's params", "against_macs": "baseline's MACs",
                 "params_more": "params, difference", "macs_more": "MACs, difference"},
            ),
        ),
    ),
    Section(
        "latency",
        "Latency",
        "Time beside MACs. A ratio compares turns of the same round on the same device, so times "
        "of a CPU and of a GPU never meet in one; above 1 is slower than the baseline.",
        ("latency", "ceilings", "latency_layers"),
        (
            Show(
                "context_cost",
                "What context costs",
                "Ratios to the network or operator it is against, measured in the same rounds.",
                ("model", "against", "condition", "params_ratio", "macs_ratio", "latency_ratio",
                 "peak_mib_ratio"),
                ("against",),
            ),
            "latency",
            Show(
                "latency",
                "Times",
                "The median of all runs, and its 95 % interval over rounds and launches.",
                ("model", "against", "mode", "batch", "image_size", "dtype", "backend",
                 "op_backend", _MEDIAN, _RATIO, "images_s", "peak_mib", "fraction", "status"),
                ("mode", "dtype", "backend", "status"),
            ),
            "roofline",
            Show(
                "ceilings",
                "Roofs",
                "What each device does at most: a large matrix product, and copying.",
                headings={"gb_s": "GB/s", "matmul_side": "side of the matrices",
                          "copy_mib": "copied (MiB)"},
            ),
            "layers",
            Show(
                "layer_times",
                "Time per layer",
                "Each layer timed by itself, in both networks.",
                ("layer", "kind", "against_kind", "macs", "against_macs", "ms", "against_ms",
                 "ms_more"),
                ("model", "kind"),
                {"against": "baseline", "against_kind": "kind in the baseline",
                 "against_macs": "baseline's MACs", "ms": "time (ms)",
                 "against_ms": "baseline's time (ms)", "ms_more": "difference (ms)"},
            ),
        ),
    ),
    Section(
        "ablations",
        "Ablations",
        "Networks trained from several seeds, and what was expected of them before. A verdict "
        "pairs the seeds; p is corrected over the expectations of an experiment (Holm).",
        ("experiments", "trials", "examples"),
        (
            Show(
                "expectations",
                "What was expected, and what became of it",
                "The difference is in points of top-1 error: below 0 is better.",
                ("experiment", "words", "verdict", "against", _DIFFERENCE, "at_least", "p",
                 "seeds"),
                ("experiment", "verdict"),
            ),
            "ablation_errors",
            Show(
                "ablations",
                "Errors",
                "Mean over seeds with Student's 95 % interval; the difference is to the baseline.",
                ("experiment", "variant", "n", "failed",
                 Range("top1_error", "top1_low", "top1_high", form="points"), _DIFFERENCE, "p",
                 "chance_error", "imagenet_top1_error", "seconds"),
                ("experiment",),
            ),
            "ablation_curves",
            "ablation_distance",
            "ablation_priors",
            "data_examples",
        ),
    ),
    Section(
        "inside",
        "Inside the networks",
        "What the networks look at: attention on the parts of an image that decide its class, "
        "receptive fields, displaced taps, kernels made for an image, class priors.",
        ("cues", "gradcam", "offsets", "kernels", "priors", "erf"),
        (
            Show("cue_shares", "Attention within the parts that decide",
                 filters=("network", "measure", "part")),
            Show("receptive_fields", "Effective receptive fields",
                 "The side of the centred square that holds a share of all that counts.",
                 filters=("network", "layer")),
            Show("faithfulness", "Grad-CAM: does the map say what matters",
                 "Areas under the score's curve as pixels are taken out or put in by the map, "
                 "beside an order by chance."),
            Show("sampling", "Displaced taps"),
            Show("kernels", "Kernels", filters=("network", "operator")),
            Show("priors", "Class priors"),
        ),
        gallery=("cues", "gradcam", "offsets", "kernels", "priors", "erf"),
    ),
    Section(
        "tools",
        "The tools themselves",
        "How fast and how right the counting, the operators, the clocks and the training are, "
        "beside what others offer.",
        ("counting", "operators", "timers", "training", "gradcam_speed"),
        (
            "operators",
            Show("operator_costs",
                 "Operators, beside a plain convolution and the obvious formulation",
                 filters=("operator", "task")),
            Show("counters", "Where counters disagree",
                 "What each says, divided by the MACs that we count; networks that all agree on, "
                 "to 5 %, are left out."),
            Show("operators", "Operators, every form",
                 columns=("operator", "case", "device", "dtype", "layout", "task", "form",
                          "formulation", "median_ms",
                          Range("ratio_to_plain", "plain_low", "plain_high"),
                          Range("ratio_to_obvious", "ratio_low", "ratio_high"), "roof_share",
                          "peak_mib", "max_difference"),
                 filters=("operator", "form", "task", "dtype", "layout")),
            Show("counting", "Counters of MACs",
                 columns=("model", "counter", "macs", "median_s",
                          Range("ratio_to_fvcore", "ratio_low", "ratio_high"), "peak_mib", "runs",
                          "threads"),
                 filters=("counter",)),
            Show("timers", "Our clock beside torch's",
                 columns=("model", "batch", "threads", "ours_ms", "torch_ms", _RATIO)),
            Show("training", "Training beside a bare loop",
                 columns=("model", "image_px", "batch", "threads", "ours_images_s",
                          "bare_images_s", Range("speed_ratio", "speed_low", "speed_high"),
                          "beyond_us", "checkpoint_ms", "weights_difference")),
            Show("training_jobs", "Several trials at a time",
                 columns=("model", "trials", "jobs", "threads", "alone_s", "together_s",
                          Range("speedup", "speedup_low", "speedup_high"), "training_s",
                          "training_together_s", "besides_s", "command_s")),
            Show("gradcam_speed", "Grad-CAM beside other packages"),
        ),
    ),
)  # fmt: skip
# what no section names is shown in that of its kind
_NAMED = {item.table for section in SECTIONS for item in section.items if isinstance(item, Show)}
RUNS = Show(
    "runs",
    "Every run",
    "One line for each command on one machine at one commit, the newest first.",
    ("command", "rows", "kinds", "last", "machine", "device", "commit"),
    ("machine", "device", "commit"),
    {"last": "newest row", "kinds": "kind of rows"},
)


def unnamed(section: Section, kinds: Mapping[str, str]) -> list[Show]:
    """Return how tables are shown that no section names, by the kind of row of each table."""
    found = [name for name, kind in kinds.items() if kind in section.kinds]
    return [
        Show(name, name.replace("_", " ").capitalize())
        for name in found
        if name not in _NAMED and name not in ELSEWHERE
    ]
