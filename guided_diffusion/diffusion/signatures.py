"""Which arguments a function takes.

Samplers, processes and loops can be overridden by code that was written for one of the upstreams.
Methods there lack some arguments that methods here, or in another upstream, have.
"""

import inspect
from collections.abc import Callable
from typing import Any


def known(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return the arguments that a function takes, by name or as any keyword."""
    parameters = inspect.signature(function).parameters
    rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in arguments.items() if rest or name in parameters}


def known_or_given(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return the arguments that a function takes, and those that are not None.

    What is None changes nothing, and is left out where it is not known; what is given is handed on,
    so that a function without such an argument says so.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    return known(function, **arguments) | given
