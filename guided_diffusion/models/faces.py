"""Faces: functions with an upstream project's parameters that call builders with settings."""

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..config.settings import Settings, defaults, fields_of


def face(
    name: str,
    doc: str,
    make: Callable[..., Any],
    groups: Sequence[type[Settings]],
    parameters: str,
    left_out: str = "",
) -> Callable[..., Any]:
    """Make a face: a function that takes upstream's parameters and calls a builder with settings.

    All other settings of the groups become keywords of the function, with their defaults.

    Args:
        name: name of the function.
        doc: docstring of the function.
        make: builder; it gets an instance of each group, and as keywords the parameters that no
            group has.
        groups: groups of settings.
        parameters: names in upstream's order, each alone or as NAME=DEFAULT; names after a * are
            keywords only.
        left_out: name of a setting that is not a parameter.
    """
    own = [{field.name: type(field.default) for field in fields_of(group)} for group in groups]
    types = {key: kind for known in reversed(own) for key, kind in known.items()}
    others = {key: value for key, value in defaults(*groups).items() if key != left_out}
    signature = inspect.Signature(_parameters(parameters, types, others))

    def create(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        settings = [
            group(**{key: _typed(values[key], known[key]) for key in known if key in values})
            for group, known in zip(groups, own, strict=True)
        ]
        return make(*settings, **{key: values[key] for key in values if key not in types})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = doc
    create.__signature__ = signature  # type: ignore[attr-defined]
    parameters_of = signature.parameters.values()
    create.__annotations__ = {p.name: p.annotation for p in parameters_of if p.name in types}
    # The module that calls us, as for a namedtuple: pickle looks for the function there.
    create.__module__ = sys._getframe(1).f_globals["__name__"]
    return create


def by_two(create_network: str, places: int, parameters: str) -> Callable[..., tuple[Any, Any]]:
    """Return a builder of a network and its process that calls two functions of the calling module.

    They are `create_network` and `create_gaussian_diffusion`, looked up at each call, as programs
    replace them. They get what upstream hands to its own, and a setting that upstream does not have
    only where it is not at its default.

    Args:
        create_network: name of a face that builds the network.
        places: number of its arguments that upstream gives by place.
        parameters: names of the parameters of upstream's function for both, as for `face`.
    """
    module, known = sys._getframe(1).f_globals, {"steps", *parameters.split()}
    names = create_network, "create_gaussian_diffusion"
    published = {name: inspect.signature(module[name]).parameters for name in names}

    def call(name: str, values: Mapping[str, Any], places: int) -> Any:
        own = published[name]
        given = [key for key in own if key in known or values[key] != own[key].default]
        by_name = {key: values[key] for key in given[places:]}
        return module[name](*(values[key] for key in given[:places]), **by_name)

    def make(network: Settings, process: Settings, **rest: Any) -> tuple[Any, Any]:
        values = network.values() | process.values() | rest
        values["steps"] = values["diffusion_steps"]
        return call(names[0], values, places), call(names[1], values, 0)

    return make


def _typed(value: Any, kind: type) -> Any:
    """Convert a value to the type of its setting, as loosely as upstream takes values."""
    if kind is bool and not isinstance(value, str):
        return bool(value)
    if kind is str and not isinstance(value, str):
        parts = value if isinstance(value, Iterable) else [] if value is None else [value]
        return ",".join(map(str, parts))
    return value.item() if isinstance(value, np.generic) else value


def _parameters(
    text: str, types: Mapping[str, Any], others: Mapping[str, Any]
) -> list[inspect.Parameter]:
    empty, kind = inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = {}
    for part in text.split():
        if part == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        name, equals, default = part.partition("=")
        parameters[name] = (kind, ast.literal_eval(default) if equals else empty)
    for name in [key for key in others if key not in parameters]:
        parameters[name] = (inspect.Parameter.KEYWORD_ONLY, others[name])
    return [
        inspect.Parameter(name, kind, default=value, annotation=types.get(name, empty))
        for name, (kind, value) in parameters.items()
    ]


def defaults_for(create: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of {name: default} that a face takes by position."""
    return {name: known[name] for name in inspect.getfullargspec(create).args}
