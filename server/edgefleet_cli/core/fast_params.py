"""How words of a command line become values without pydantic, where they are values already.

typer asks a pydantic adapter for each parameter, also for one that was not given, and so loads pydantic at each start: a quarter of
what `edgectl device list` costs. Nothing, texts and the exact words of a choice are taken here; whatever else, and all that is wrong,
goes to typer as ever. A typer that has no such adapters is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any


class FastParam:
    """Stands in front of typer's own way for one parameter. annotation: the type of its value; whole: gives typer's own."""

    def __init__(self, annotation: Any, whole: Callable[[], Any]) -> None:
        self._annotation = annotation
        self._whole = whole

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value that a word stands for, as typer does. Raises its usage errors."""
        kind = self._annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if kind is str and type(value) is str:
            return value
        if isinstance(kind, type) and issubclass(kind, Enum):
            if isinstance(value, kind):
                return value
            for one in kind:
                if one.value == value:
                    return one
        if kind is int and type(value) is int and value == param.default:
            return value
        return self._whole().coerce(value, param=param, ctx=ctx)


def use_fast_params(command: Any) -> None:
    """Put takers before the parameters of a command and of all below it (changes the command tree in place)."""
    for param in command.params:
        _put_before(param)
    own_help = getattr(command, "get_help_option", None)
    if own_help is not None:
        command.get_help_option = lambda ctx: _help_option(own_help(ctx))  # `--help` is made when first asked for
    for child in getattr(command, "commands", {}).values():
        use_fast_params(child)


def _help_option(param: Any) -> Any:
    if param is not None:
        param.metavar = ""  # it takes no value
    return _put_before(param)


def _put_before(param: Any) -> Any:
    """Return a parameter, with a taker before it from now on."""
    descriptor, whole = getattr(param, "type_descriptor", None), getattr(param, "get_runtime_param", None)
    if descriptor is not None and whole is not None and descriptor.parameter_info.parser is None:
        taker = FastParam(descriptor.annotation, whole)
        param.get_runtime_param = lambda: taker
    return param
