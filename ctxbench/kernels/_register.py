"""Registering an operator with torch, so that whatever traces or compiles sees one call."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ctxbench.errors import BackendError

Function = TypeVar("Function", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("ctxbench", "DEF")  # type: ignore[no-untyped-call]


class CustomOp:
    """A function that torch calls as `ctxbench::NAME`; its annotations are its schema.

    `torch.library.custom_op` does as much, and loads torch's compiler at the first call: 2 seconds
    and 150 MiB for a network that nobody compiles.
    """

    def __init__(self, name: str, function: Callable[..., Any], *, is_gradient: bool) -> None:
        self._name = f"ctxbench::{name}"
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema)  # type: ignore[no-untyped-call]
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        self._call = getattr(torch.ops.ctxbench, name).default
        if is_gradient:
            self.register_autograd(self._refuse, setup_context=_keep_nothing)

    def __call__(self, *arguments: Any) -> Any:
        """Call it by way of torch."""
        return self._call(*arguments)

    def register_fake(self, function: Function) -> Function:
        """Have a function say what comes out, from shapes alone."""
        torch.library.register_fake(self._name, function, lib=_LIBRARY)
        return function

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]
    ) -> None:
        """Have functions say what is kept and what gradients it has."""
        torch.library.register_autograd(
            self._name, backward, setup_context=setup_context, lib=_LIBRARY
        )

    def _refuse(self, *_: Any) -> None:
        raise BackendError(
            f"{self._name} is a gradient, which has no gradient of its own. "
            f"Use backend='reference', which can be differentiated twice."
        )


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep nothing for a backward pass."""


def custom_op(name: str, *, is_gradient: bool = False) -> Callable[[Callable[..., Any]], CustomOp]:
    """Make the decorated function an operator of torch; a gradient cannot be differentiated."""
    return lambda function: CustomOp(name, function, is_gradient=is_gradient)
