"""Sentences of the page, every number in them from rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pandas import DataFrame

from ctxbench.claims import CLOSE, COUNTED, DIFFERS, PROVED_EQUAL, REFUTED, REPRODUCED
from ctxbench.records import Row, latest
from ctxbench.render import show
from ctxbench.report import ablations
from ctxbench.report.networks import CLAIM
from ctxbench.report.timings import compared, is_operator, with_interval, words

# how far a ratio of MACs may be from 1 and count as equal
_EQUAL = 0.01
# of one sort in the summary, and of pairs in one of them
_SENTENCES, _PAIRS = 12, 12


class Statement(NamedTuple):
    """A sentence of the summary, and the link to what stands behind it."""

    text: str
    link: str


def summary(rows: Mapping[str, Sequence[Row]]) -> list[Statement]:
    """Say in a few sentences what was found, the refuted and the slow included."""
    layers, times = _layers(rows["layers"]), _latency(rows["latency"])
    said = [*_claims(rows["claims"]), *_first(layers, "parity"), *_first(times, "latency")]
    return [*said, *_expectations([*rows["experiments"], *rows["trials"]])]


def _first(said: Iterable[Statement], link: str) -> list[Statement]:
    """Keep so many sentences of one sort that the summary stays one."""
    found = list(said)
    beyond = len(found) - _SENTENCES
    if beyond <= 0:
        return found
    told = f"{beyond} more {_s(beyond, 'sentence')} like these: the tables hold what they say."
    return [*found[:_SENTENCES], Statement(told, link)]


def _claims(rows: Iterable[Row]) -> Iterable[Statement]:
    found = latest(rows, *CLAIM)
    counted = Counter(row["verdict"] for row in found if row["metric"] in COUNTED)
    if total := counted.total():
        right = counted[REPRODUCED] + counted[PROVED_EQUAL]
        missed = [f"{counted[v]} {told}" for v, told in
                  ((CLOSE, "close"), (DIFFERS, _verb(counted[DIFFERS], "differ")),
                   (REFUTED, "refuted"))]  # fmt: skip
        others = total - right - sum(counted[v] for v in (CLOSE, DIFFERS, REFUTED))
        missed += [f"{others} not judged"] if others else []
        text = (
            f"{right} of {total} published costs are reproduced to the printed digits or proved "
            f"equal; {', '.join(missed)}."
        )
        yield Statement(text, "claims")
    if trained := [row for row in found if row["metric"] not in COUNTED]:
        text = (
            f"{len(trained)} further published {_s(len(trained), 'figure')} "
            f"{_verb(len(trained), 'need')} training at the papers' scale, and no verdict is given."
        )
        yield Statement(text, "claims")


def _layers(rows: Iterable[Row]) -> Iterable[Statement]:
    pairs: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in latest(rows, "model", "against", "input_shape", "layer"):
        if row["against"]:  # counted alone, a network is equal to none and differs from none
            shapes = pairs.setdefault((row["model"], row["against"]), {})
            shapes.setdefault(show(row["input_shape"]), []).append(row)
    for (model, against), shapes in pairs.items():
        for shape, layers in shapes.items():
            where = f" at {shape}" if len(shapes) > 1 else ""
            yield Statement(_parity(model, against, layers, where), "parity")


def _parity(model: str, against: str, layers: Sequence[Row], where: str) -> str:
    apart = sum(
        any(row.get(key) != row.get(f"against_{key}") for key in ("macs", "params"))
        for row in layers
    )
    if apart:
        return f"{model} and {against} differ in cost in {apart} of {len(layers)} layers{where}."
    count = f"each of {len(layers)} layers" if len(layers) > 1 else "its one layer"
    return f"{model} has the MACs and parameters of {against} in {count}{where}."


def _latency(rows: Iterable[Row]) -> Iterable[Statement]:
    places: dict[str, list[Row]] = {}
    for row in compared(rows):
        if not is_operator(row["model"]):
            places.setdefault(row["place"], []).append(row)
    for place, found in places.items():
        sure = [row for row in found if None not in (row["ratio_low"], row["ratio_high"])]
        slower = sum(row["ratio_low"] > 1 for row in sure)
        faster = sum(row["ratio_high"] < 1 for row in sure)
        text = (
            f"{place}: networks timed beside their baselines: {slower} slower, {faster} faster, "
            f"{len(found) - slower - faster} undecided; {_slowest(found)}."
        )
        yield Statement(text, "latency")
        if equal := _at_equal_macs(found):
            yield Statement(f"{place}, at equal MACs: {equal}.", "latency")


def _slowest(found: Sequence[Row]) -> str:
    row = max(found, key=lambda row: row["ratio"])
    ratio = with_interval(row["ratio"], row["ratio_low"], row["ratio_high"])
    return (
        f"the largest ratio is {ratio}, of {row['model']} to {row['against']} "
        f"({', '.join(words(row))})"
    )


def _at_equal_macs(found: Iterable[Row]) -> str:
    ratios: dict[tuple[str, str], list[float]] = {}
    for row in found:
        if row["macs_ratio"] and abs(row["macs_ratio"] - 1) <= _EQUAL:
            ratios.setdefault((row["model"], row["against"]), []).append(row["ratio"])
    told = [
        f"{model} takes {_span(seen)} times as long as {against}"
        for (model, against), seen in ratios.items()
    ]
    beyond = len(told) - _PAIRS
    return "; ".join([*told[:_PAIRS], *([f"and {beyond} more pairs"] if beyond > 0 else [])])


def _expectations(rows: Iterable[Row]) -> Iterable[Statement]:
    judged = Counter(ablations.judge(rows)["verdict"])
    if total := judged.total():
        names = (ablations.CONFIRMED, ablations.NOT_CONFIRMED, ablations.INCONCLUSIVE)
        told = ", ".join(f"{judged[name]} {name}" for name in names if judged[name])
        yield Statement(
            f"Of {total} {_s(total, 'expectation')} on trained networks: {told}.", "ablations"
        )


def alternative(name: str, drawn: DataFrame) -> str:
    """Say what a figure shows, for those who do not see it."""
    tell = _ALTERNATIVES.get(name)
    return tell(drawn) if tell else f"Figure {name}, of {len(drawn)} values."


def _claims_alt(drawn: DataFrame) -> str:
    verdicts = Counter(
        verdict
        for key in ("params_verdict", "gflops_verdict")
        for verdict in drawn[key]
        if isinstance(verdict, str)
    )
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return (
        f"Dot plot of {len(drawn)} lines from {drawn['paper'].nunique()} papers: a ring for the "
        f"published parameters and GFLOPs, inside it a mark for ours. By verdict: {told}."
    )


def _parity_alt(drawn: DataFrame) -> str:
    apart = int((drawn["difference"] != 0).sum())
    return (
        f"Two panels over the layers: the MACs of both networks, and the difference, which is 0 in "
        f"{len(drawn) - apart} of {len(drawn)} layers."
    )


def _latency_alt(drawn: DataFrame) -> str:
    return (
        f"Dot plot of {len(drawn)} comparisons in panels by device: a ring for the ratio of MACs "
        f"to the baseline, a dot with its 95 % interval for the ratio of time, from "
        f"{_span(list(drawn['ratio']))} on a logarithmic axis."
    )


def _roofline_alt(drawn: DataFrame) -> str:
    shares = [float(share) for share in drawn["fraction"].dropna()]
    reach = (
        f", which reach {100 * min(shares):.0f} to {100 * max(shares):.0f} % of it"
        if shares
        else ""
    )
    return (
        f"Roofline: GFLOP/s over FLOPs a byte of {len(drawn)} measurements, beneath what the "
        f"device can do at most{reach}."
    )


def _operators_alt(drawn: DataFrame) -> str:
    return (
        f"Dot plot of {drawn['line'].nunique()} operators and shapes, by device and for forward "
        f"passes and training: a mark for each way of computing, at its time over that of the "
        f"plain convolution, from {_span(list(drawn['ratio']))} on a logarithmic axis."
    )


def _layers_alt(drawn: DataFrame) -> str:
    ours, theirs = drawn[["model", "against"]].iloc[0]
    times = drawn["ms"].sum(), drawn["against_ms"].sum()
    return (
        f"Three panels over the layers of {ours} and {theirs}: MACs, time and the difference in "
        f"time. Together {times[0]:.3g} and {times[1]:.3g} ms."
    )


def _trained_alt(what: str, drawn: DataFrame) -> str:
    names = ", ".join(dict.fromkeys(str(title) for title in drawn["title"]))
    return f"{what}, with 95 % intervals over seeds. Experiments: {names}."


def _examples_alt(drawn: DataFrame) -> str:
    return (
        f"{len(drawn)} validation images of {drawn['data'].nunique()} data sets, with the objects "
        f"and cues marked that decide the class."
    )


_ALTERNATIVES = {
    "claims": _claims_alt,
    "parity": _parity_alt,
    "latency": _latency_alt,
    "roofline": _roofline_alt,
    "operators": _operators_alt,
    "layers": _layers_alt,
    "ablation_errors": lambda drawn: _trained_alt(
        f"Errors of {len(drawn)} trained variants, each seed and the mean", drawn
    ),
    "ablation_curves": lambda drawn: _trained_alt(
        "Top-1 error over epochs, on training and validation images", drawn
    ),
    "ablation_distance": lambda drawn: _trained_alt(
        "Top-1 error over the distance at which the cue lies", drawn
    ),
    "ablation_priors": lambda drawn: _trained_alt(
        "Top-1 error over the number of classes in the prior", drawn
    ),
    "data_examples": _examples_alt,
}
CAPTIONS = {
    "claims": "Published costs and ours",
    "parity": "MACs of each layer, and the difference",
    "latency": "What context costs: MACs, and time",
    "roofline": "What is achieved of what the device can do",
    "operators": "What context costs in an operator, by every way of computing it",
    "layers": "Where the time goes, layer by layer",
    "ablation_errors": "Errors of the trained variants",
    "ablation_curves": "Errors over epochs",
    "ablation_distance": "Error over the distance of the cue",
    "ablation_priors": "Error over the size of the class prior",
    "data_examples": "What the networks see",
}


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    said = with_interval(low, None, None), with_interval(high, None, None)
    return said[0] if said[0] == said[1] else f"{said[0]} to {said[1]}"


def _s(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _verb(count: int, word: str) -> str:
    return f"{word}s" if count == 1 else word
