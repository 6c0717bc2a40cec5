"""An operator in the place of the convolutions of anybody's network."""

import re
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from ctxbench.errors import SpecError, UnknownNameError
from ctxbench.ops import OPS
from ctxbench.spec import convert, describe, options_of, split_spec

# a convolution -> every path that leads to it in a network
Paths = Mapping[nn.Module, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Replaced:
    """What `replace_conv` did, by the path of each convolution.

    `replaced` says what stands there now, `left` why the convolution has stayed.
    """

    replaced: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        """Say in one line how many were replaced, and why how many have stayed."""
        reasons = Counter(self.left.values()).items()
        stayed = "; ".join(f"{times} left: {reason}" for reason, times in reasons)
        return f"{len(self.replaced)} convolutions replaced; {stayed or 'none left'}"


def replace_conv(model: nn.Module, replacement: str, *, where: str = "*") -> Replaced:
    """Put an operator in the place of the k x k convolutions of `model`, which is changed.

    `replacement` is the operator's spec: `cgc`, `coconv:levels=2`. An option given as a list goes
    by width: `coconv:levels=4,3,2,1` is 4 levels where the convolutions to be replaced have the
    fewest output channels, 3 where they have the next, and so on. If that is one width too many and
    the first convolution of the network shares its with no other, it goes with the narrowest.
    `where` is a list of patterns over module paths, `!` excludes: `layer*,!layer1.*`. It may stand
    in the spec, too: `coconv:levels=2:where=layer*`.

    Weights, biases, modes, devices and types stay as they are; the weights are the same parameters,
    so an optimiser that holds them goes on with them, and must be told of those that are new. A
    convolution that is used in several places stays one, replaced if `where` holds for any of them.

        replaced = replace_conv(torchvision.models.resnet50(), "coconv:levels=4,3,2,1:where=layer*")
        replaced.left["layer1.0.conv1"]  # 1x1, which no dilation changes

    Raises: UnknownNameError or SpecError for an operator, option or pattern that fits nothing, and
            if no convolution can be replaced. TypeError for what is no network, and for patterns
            that are no text. The network is unchanged then.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"replace_conv takes a torch.nn.Module; got {type(model).__name__}. A name is built by "
            f"ctxbench.create_model."
        )
    if not isinstance(where, str):
        raise TypeError(
            f"replace_conv takes where as text, like 'layer*,!layer1.*'; got {where!r}."
        )
    return Replacement.read(replacement, where=where).apply(model)


@dataclass(frozen=True, slots=True)
class Replacement:
    """An operator to put into networks, its name resolved and its options checked.

    `options` holds the values of each: one for all convolutions, or one for each width.
    """

    operator: str
    from_conv: Callable[..., nn.Module]
    options: Mapping[str, Sequence[Any]]
    where: str

    @classmethod
    def read(cls, spec: str, *, where: str = "*") -> "Replacement":
        """Read an operator's spec; a `where` in it counts instead of the other."""
        name, given = split_spec(spec)
        where = given.pop("where", where)
        from_conv = _from_conv(name)
        known = options_of(from_conv)
        for key in given:
            if key not in known:
                raise UnknownNameError(f"option of {name}", key, [*known, "where"])
        options = {key: _values(name, key, text, known[key]) for key, text in given.items()}
        read = cls(name, from_conv, options, where)
        for index in range(max(map(len, options.values()), default=1)):
            read._check_values(index)
        return read

    def apply(self, model: nn.Module) -> Replaced:
        """Replace what can be replaced in `model`, and say what was and what was not."""
        paths = _convolutions(model)
        reasons = {conv: _why_not(conv) for conv in paths}
        reasons.update(dict.fromkeys(_left_out(paths, self.where), "left out by where"))
        made = self._make([conv for conv, reason in reasons.items() if not reason], paths)
        results = {conv: reason or made[conv] for conv, reason in reasons.items()}
        operators = {conv: op for conv, op in results.items() if isinstance(op, nn.Module)}
        left = {conv: reason for conv, reason in results.items() if isinstance(reason, str)}
        if not operators:
            tally = [f"{reason} ({times})" for reason, times in Counter(left.values()).items()]
            raise SpecError(
                f"{self.operator} replaces none of the {len(left)} convolutions: "
                f"{'; '.join(tally)}. Choose others with where, or another operator."
            )
        for conv, op in operators.items():
            op.train(conv.training)
            for path in paths[conv]:
                model.set_submodule(path, op)
        return Replaced(
            {path: _description(op) for conv, op in operators.items() for path in paths[conv]},
            {path: reason for conv, reason in left.items() for path in paths[conv]},
        )

    def _make(self, convs: Sequence[nn.Module], paths: Paths) -> dict[nn.Module, nn.Module | str]:
        """Return what stands in for each convolution, or why nothing can."""
        made = {conv: self._stand_in(conv, 0) for conv in convs}
        fitting = [conv for conv, op in made.items() if isinstance(op, nn.Module)]
        lists = {key: values for key, values in self.options.items() if len(values) > 1}
        if lists and fitting:
            examples = {_width(conv): paths[conv][0] for conv in reversed(fitting)}
            if all(len(values) == len(examples) - 1 for values in lists.values()):
                examples = _without_stem(examples, fitting)
            self._check_lengths(lists, examples)
            places = {width: place for place, width in enumerate(sorted(examples))}
            made |= {conv: self._stand_in(conv, places.get(_width(conv), 0)) for conv in fitting}
        return made

    def _stand_in(self, conv: nn.Module, index: int) -> nn.Module | str:
        try:
            return self.from_conv(conv, **self._chosen(index))
        except ValueError as error:
            return str(error)

    def _check_lengths(
        self, lists: Mapping[str, Sequence[Any]], example: Mapping[int, str]
    ) -> None:
        shown = ", ".join(f"{width} ({example[width]})" for width in sorted(example))
        for key, values in lists.items():
            if len(values) != len(example):
                raise SpecError(
                    f"{self.operator}: {key}={','.join(map(str, values))} is {len(values)} values "
                    f"for {len(example)} widths of convolutions: {shown}. Give one for all, one "
                    f"for each width, or choose convolutions with where."
                )

    def _chosen(self, index: int) -> dict[str, Any]:
        """Return the options of the width that has this place among them."""
        return {key: values[index % len(values)] for key, values in self.options.items()}

    def _check_values(self, index: int) -> None:
        """Try the options on a convolution that nothing is wrong with."""
        try:
            self.from_conv(nn.Conv2d(64, 64, 3, padding=1, device="meta"), **self._chosen(index))
        except ValueError as error:
            raise SpecError(f"{self.operator}: {error}") from error


def split_replacement(spec: str) -> tuple[str, str | None]:
    """Return the spec of the network and, if it has one, that of the operator after `replace=`."""
    network, *replacement = re.split(r"\s*:\s*replace\s*=\s*", spec.strip(), maxsplit=1)
    if replacement == [""]:
        raise SpecError(f"Spec {spec!r} names no operator. Write replace=coconv:levels=2, ...")
    return network, replacement[0] if replacement else None


def _from_conv(name: str) -> Callable[..., nn.Module]:
    if name not in OPS:
        raise UnknownNameError("operator", name, OPS)
    from_conv = OPS[name].from_conv
    if from_conv is None:
        able = [other for other, spec in OPS.items() if spec.from_conv]
        raise SpecError(
            f"{name} cannot stand in for a convolution: it is a block of several layers, or takes "
            f"a second input. These can: {', '.join(able)}."
        )
    return from_conv


def _values(operator: str, key: str, text: str, hint: Any) -> list[Any]:
    """Read the values of an option: one for each width, unless its type is itself a list."""
    items = [text] if typing.get_origin(hint) is tuple else text.split(",")
    try:
        return [convert(item.strip(), hint) for item in items]
    except ValueError:
        raise SpecError(f"{operator}: {key}={text} is not {describe(hint)}.") from None


def _convolutions(model: nn.Module) -> Paths:
    if isinstance(model, _ConvNd):
        raise SpecError(
            f"The network itself is a {type(model).__name__}, which nothing holds. Wrap it in "
            f"nn.Sequential."
        )
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _ConvNd):
            paths.setdefault(module, []).append(path)
    if not paths:
        raise SpecError(f"{type(model).__name__} has no convolution that could be replaced.")
    return paths


def _left_out(paths: Paths, where: str) -> list[nn.Module]:
    """Return the convolutions of which no path is matched."""
    patterns = [pattern.strip() for pattern in where.split(",")]
    known = [path for several in paths.values() for path in several]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern.removeprefix("!")) for path in known):
            raise SpecError(
                f"where={where}: {pattern!r} matches no convolution of the network. It has "
                f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
            )
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]

    def chosen(path: str) -> bool:
        return _any_matches(wanted, path) and not _any_matches(unwanted, path)

    return [conv for conv, several in paths.items() if not any(map(chosen, several))]


def _any_matches(patterns: Sequence[str], path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _why_not(conv: nn.Module) -> str:
    """Return what a swap would lose, whatever the operator; empty if nothing."""
    if parametrize.is_parametrized(conv):
        return "parametrized, which the swap would lose"
    if isinstance(conv, _ConvTransposeNd):
        return f"{type(conv).__name__}, transposed"
    if type(conv) is not nn.Conv2d:
        does = "does more than nn.Conv2d" if isinstance(conv, nn.Conv2d) else "is no nn.Conv2d"
        return f"{type(conv).__name__}, which {does}"
    if "forward" in vars(conv):
        return "a forward of its own, which the swap would lose"
    hooks = (
        conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks
    )  # fmt: skip
    return "hooks, which the swap would lose" if any(hooks) else ""


def _without_stem(examples: dict[int, str], convs: Sequence[nn.Module]) -> dict[int, str]:
    """Leave out the width of the first convolution if no other has it."""
    stem, *others = map(_width, convs)
    return {w: path for w, path in examples.items() if w != stem or stem in others}


def _width(conv: nn.Module) -> int:
    return int(conv.out_channels)  # type: ignore[arg-type]


def _description(op: nn.Module) -> str:
    return f"{type(op).__name__}({op.extra_repr()})"
