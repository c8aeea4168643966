"""Arguments for functions that may lack some parameters.

Samplers, processes and loops can be overridden by code that was written for one of the upstreams.
Methods there lack some parameters that methods have here or in another upstream.
"""

import inspect
from collections.abc import Callable
from typing import Any


def accepted(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return the arguments that a function takes, by name or as any keyword."""
    parameters = inspect.signature(function).parameters
    rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in arguments.items() if rest or name in parameters}


def accepted_or_given(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return the arguments that a function takes, and all that are not None.

    An argument that is None changes nothing, so it is left out if the function does not take it.
    Any other stays in: the call then fails, where leaving it out would silently ignore it.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    return accepted(function, **arguments) | given
