"""Calls of functions that may lack some of the arguments.

Samplers, processes and loops can be overridden by code that was written for one of the upstreams,
whose methods lack some of the arguments that methods have here or in another upstream.
"""

import inspect
from collections.abc import Callable
from typing import Any


def known(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return those of the arguments that a function takes, by name or as any keyword."""
    parameters = inspect.signature(function).parameters
    rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in arguments.items() if rest or name in parameters}


def known_or_given(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return those of the arguments that a function takes, and all that are not None.

    An argument that is None changes nothing, so it is left out if the function does not take it.
    Any other is handed on even so, and the call then fails instead of ignoring it.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    return known(function, **arguments) | given
