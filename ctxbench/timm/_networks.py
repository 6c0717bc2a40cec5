"""What timm's programs call on a network, added to ours without a change of their state dicts."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ctxbench.models._mode import evaluating
from ctxbench.models.contextual import ContextualNetwork
from ctxbench.models.convnext import ConvNeXt
from ctxbench.models.overlock import OverLoCK
from ctxbench.models.resnet import ResNet
from ctxbench.ops.class_prior import ClassEmbedding, VisualProjection

_PROBE_PX = 256  # divisible by every stride, so that the sides tell it


# Inheriting from two networks is against our rules: timm calls methods, and a wrapper that has
# them would rename every entry of the state dict.
class Classifier(nn.Module):
    """timm's methods, for a network whose subclass says where its parts are."""

    classifier: ClassVar[str]
    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]

    @property
    def num_features(self) -> int:
        """The channels of `forward_features`."""
        raise NotImplementedError

    @property
    def head_hidden_size(self) -> int:
        """The width of what the classifier sees."""
        return self.num_features

    @property
    def num_classes(self) -> int:
        """The classes that are told apart; 0 without a classifier."""
        return int(getattr(self.get_classifier(), "out_features", 0))

    @property
    def image_channels(self) -> int:
        """The channels of the images."""
        return next(p for p in self.parameters() if p.ndim == 4).shape[1]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and module of every map that `features_only` can give.

        They are seen in a run on shapes alone.
        """
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), evaluating(self):
            x = self.get_parameter(next(name for name, _ in self.named_parameters()))
            image = x.new_empty(1, self.image_channels, _PROBE_PX, _PROBE_PX)
            _, maps = self._run_keeping(image, self.stage_ends())
        return [
            {"num_chs": y.shape[1], "reduction": _PROBE_PX // y.shape[-1], "module": name}
            for name, y in zip(self.stage_ends(), maps, strict=True)
        ]

    def stage_ends(self) -> list[str]:
        """Return the modules whose outputs are the maps of `features_only`, in order."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map that the head takes, (B, num_features, H, W)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of what `forward_features` gave, or what the classifier sees."""
        raise NotImplementedError

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return maps of stages, behind the map that the head takes unless they are all.

        An index counts the stages from 0, a negative one from the end; one number takes the last
        so many. The whole network runs in any case.
        Raises: ValueError for what is not there: another format, or a norm behind every stage.
        """
        del stop_early
        if norm or str(output_fmt) not in ("NCHW", "Format.NCHW"):
            raise ValueError(
                f"norm={norm}, output_fmt={output_fmt}: the maps come as they are, NCHW. Leave "
                f"both out."
            )
        ends = self.stage_ends()
        names = [ends[index] for index in _taken(len(ends), indices)]
        if intermediates_only:
            return self._run_keeping(x, names)[1]
        with _kept(self, names) as maps:
            last = self.forward_features(x)
        return last, [maps[name] for name in names]

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Return which stages are taken. Nothing is removed, so that weight files still fit."""
        del prune_norm, prune_head
        return _taken(len(self.stage_ends()), indices)

    def get_classifier(self) -> nn.Module:
        """Return the module that ends in one value a class."""
        return self.get_submodule(self.classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in the place of the old; 0 classes leave what it sees.

        Raises: ValueError for another pooling than the average.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool={global_pool} is not there. Leave it out, or say avg.")
        self._replace_classifier(num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks a second time in training instead of keeping what is inside.

        Raises: ValueError for a network that cannot.
        """
        if not hasattr(self, "checkpointing"):
            if enable:
                raise ValueError(
                    "Gradient checkpointing is there for OverLoCK alone. Leave it out."
                )
            return
        self.checkpointing = enable

    def _replace_classifier(self, classes: int) -> None:
        fresh = _linear(self, self.head_hidden_size, classes) if classes else nn.Identity()
        self.set_submodule(self.classifier, fresh)

    def _run_keeping(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        with _kept(self, names) as maps:
            y = self(x)
        return y, [maps[name] for name in names]


class ResNetClassifier(Classifier, ResNet):
    """A residual network; the maps are those of the stem, before its pooling, and of the stages."""

    classifier = "fc"

    @property
    def num_features(self) -> int:
        """The channels of `forward_features`."""
        return self.out_channels

    def stage_ends(self) -> list[str]:
        """Return the modules whose outputs are the maps of `features_only`, in order."""
        return ["relu", *self.stages]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map that the head takes, (B, num_features, H, W)."""
        return self.neck(self.features(x)[-1])  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of what `forward_features` gave, or what the classifier sees."""
        x = self.avgpool(x).flatten(1)
        return x if pre_logits else self.fc(x)


class ConvNeXtClassifier(Classifier, ConvNeXt):
    """A ConvNeXt; the maps are those of the stages."""

    classifier = "head"

    @property
    def num_features(self) -> int:
        """The channels of `forward_features`."""
        return self.out_channels

    def stage_ends(self) -> list[str]:
        """Return the modules whose outputs are the maps of `features_only`, in order."""
        return [f"stages.{index}" for index in range(len(self.stages))]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map that the head takes, (B, num_features, H, W)."""
        return self.features(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of what `forward_features` gave, or what the classifier sees."""
        x = self.norm(x.mean((2, 3)))
        return x if pre_logits else self.head(x)


class ContextualClassifier(Classifier, ContextualNetwork):
    """A contextual network; it has class embeddings, which guide its stages, for a classifier."""

    classifier = "classes"

    @property
    def num_features(self) -> int:
        """The channels of `forward_features`."""
        return self._projection().reduce.in_features

    @property
    def head_hidden_size(self) -> int:
        """The width of what the classifier sees."""
        return self.classes.weight.shape[1]

    @property
    def num_classes(self) -> int:
        """The classes that are told apart."""
        return len(self.classes.weight)

    def stage_ends(self) -> list[str]:
        """Return the modules whose outputs are the maps of `features_only`, in order."""
        names = {module: f"backbone.{name}" for name, module in self.backbone.named_modules()}
        stem = ["backbone.relu"] if isinstance(self.backbone, ResNet) else []
        return stem + [names[parts[-1]] for parts in self.backbone.parts()]  # type: ignore[operator]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map that the head takes, (B, num_features, H, W)."""
        end = self.stage_ends()[-1]
        with _kept(self, [end]) as maps:
            self.rankings(x)
        return maps[end]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of what `forward_features` gave, or what the classifier sees.

        Raises: ValueError with ranking=reduce, where the stages before decide which classes count.
        """
        visual: Tensor = self._projection()(x)
        if pre_logits:
            return visual
        if self.reduces:
            raise ValueError(
                "With ranking=reduce the last map alone gives no logits. Call forward."
            )
        return self.classes(visual)  # type: ignore[no-any-return]

    def _projection(self) -> VisualProjection:
        last: VisualProjection
        *_, last = self.projections.values()  # type: ignore[assignment]
        return last

    def _replace_classifier(self, classes: int) -> None:
        most = max(self.sizes.values(), default=1)
        if classes < most:
            raise ValueError(
                f"num_classes={classes} is fewer than the {most} classes that guide a stage. Build "
                f"the network with smaller prior_sizes."
            )
        fresh = ClassEmbedding(classes, self.head_hidden_size).to(self.classes.weight)
        self.classes = fresh


class OverLoCKClassifier(Classifier, OverLoCK):
    """An OverLoCK; the maps are those of two base stages and, with the prior, of the focus stages.

    timm's programs train it by its logits alone: `aux_head=False` leaves out what they never use.
    """

    classifier = "fc"

    @property
    def num_features(self) -> int:
        """The channels of `forward_features`: those of the last stage and of the prior."""
        return int(self.head[0].in_channels)  # type: ignore[arg-type]

    @property
    def head_hidden_size(self) -> int:
        """The width of what the classifier sees."""
        return int(self.head[0].out_channels)  # type: ignore[arg-type]

    def stage_ends(self) -> list[str]:
        """Return the modules whose outputs are the maps of `features_only`, in order."""
        names = ("stage1", "stage2", "focus3", "focus4")
        return [f"{name}.{len(list(self.get_submodule(name).children())) - 1}" for name in names]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map that the head takes, (B, num_features, H, W)."""
        return self._run_keeping(x, self.stage_ends()[-1:])[1][0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of what `forward_features` gave, or what the classifier sees."""
        x = self.head(x)
        return x if pre_logits else self.fc(x)

    def _replace_classifier(self, classes: int) -> None:
        super()._replace_classifier(classes)
        if self.auxiliary_head is None or not classes:
            self.auxiliary_head = None
            return
        width = int(self.auxiliary_head[-1].in_features)  # type: ignore[arg-type]
        self.auxiliary_head[-1] = _linear(self, width, classes)


# what a builder makes -> the same with timm's methods
CLASSIFIERS: dict[type[nn.Module], type[Classifier]] = {
    ResNet: ResNetClassifier,
    ConvNeXt: ConvNeXtClassifier,
    ContextualNetwork: ContextualClassifier,
    OverLoCK: OverLoCKClassifier,
}


def with_methods(model: nn.Module) -> Classifier:
    """Give a network timm's methods, in place: its class changes, its modules do not."""
    model.__class__ = CLASSIFIERS[type(model)]
    return cast(Classifier, model)


def _linear(model: nn.Module, width: int, classes: int) -> nn.Linear:
    like = next(model.parameters())
    return nn.Linear(width, classes, device=like.device, dtype=like.dtype)


def _taken(stages: int, indices: int | Sequence[int] | None) -> list[int]:
    """Return which stages timm means by `out_indices`.

    Raises: ValueError for stages that are not there.
    """
    if indices is None:
        return list(range(stages))
    inside = 0 < indices <= stages if isinstance(indices, int) else _all_inside(stages, indices)
    if not inside:
        raise ValueError(f"out_indices={indices} is out of range: there are {stages} stages.")
    if isinstance(indices, int):
        return list(range(stages - indices, stages))
    return [index % stages for index in indices]


def _all_inside(stages: int, indices: Sequence[int]) -> bool:
    return all(-stages <= index < stages for index in indices)


@contextmanager
def _kept(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of modules by name while the model runs."""
    maps: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        maps[name] = output

    handles = [
        model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
