"""Environment variables: read with the same care as flags, and named in the message.

Launchers, batch systems and shells set them, often by a script that went wrong. Nothing here
imports torch, since some of them count from the moment that torch is loaded.
"""

import importlib.util
import os
import re

from ..errors import ArgumentError, MissingExtraError, UserError

LOG_FORMATS = ("stdout", "log", "json", "jsonl", "csv", "tensorboard")
_MOST_THREADS = 4096
_GPU = re.compile(r"-?\d+|(GPU|MIG)-[\w/-]+|NoDevFiles", re.IGNORECASE)


class UnknownFormatError(UserError):
    """A log format that does not exist, as OPENAI_LOG_FORMAT may name it."""


def number(
    name: str, low: int, high: int | None = None, default: int | None = None, what: str = ""
) -> int:
    """Read a whole number from the environment.

    Args:
        name: name of the variable.
        low: smallest number.
        high: largest number; None: any.
        default: number where the variable is not set; None: it has to be.
        what: what else the variable has to do with, for the message.

    Raises:
        ArgumentError: if it is something else.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    # Python's int takes more than launchers write: underscores, spaces, other digits.
    if text is not None and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        value = int(text)
        if low <= value and (high is None or value <= high):
            return value
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"
    got = "it is not set" if text is None else f"got {text!r}"
    more = f" ({what})" if what else ""
    advice = "the launcher sets it; without one, unset it"
    raise ArgumentError(name, f"expected a whole number {limits}{more}, {got}; {advice}")


def check() -> None:
    """Refuse variables that no launcher sets, and that do not mean anything.

    Raises:
        ArgumentError: naming the variable.
        MissingExtraError: if a log format needs a package that is not installed.
    """
    _check_threads()
    _check_gpus()
    formats = [f for f in os.environ.get("OPENAI_LOG_FORMAT", "").split(",") if f]
    formats += [f for f in os.environ.get("OPENAI_LOG_FORMAT_MPI", "").split(",") if f]
    for name in formats:
        refuse_unknown_format(name)
    if "tensorboard" in formats and importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError(
            "OPENAI_LOG_FORMAT: tensorboard needs a package of this name: pip install tensorboard"
        )
    if os.path.exists(folder := os.environ.get("OPENAI_LOGDIR", "")) and not os.path.isdir(folder):
        raise ArgumentError("OPENAI_LOGDIR", f"expected a folder, got the file {folder}")


def refuse_unknown_format(name: str) -> None:
    """Refuse a log format that does not exist.

    Raises:
        UnknownFormatError: naming the formats that do.
    """
    if name not in LOG_FORMATS:
        expected = f"expected one of {', '.join(LOG_FORMATS)}"
        raise UnknownFormatError(f"log format (OPENAI_LOG_FORMAT): {expected}, got {name!r}")


def _check_threads() -> None:
    text = os.environ.get("OMP_NUM_THREADS")
    if text is None:
        return
    # One number, or one for each level of nesting.
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", p) and 1 <= int(p) <= _MOST_THREADS for p in parts):
        expected = f"expected a number of threads from 1 to {_MOST_THREADS}"
        raise ArgumentError("OMP_NUM_THREADS", f"{expected}, got {text!r}; correct or unset it")


def _check_gpus() -> None:
    text = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if text.strip() and not all(_GPU.fullmatch(part.strip()) for part in text.split(",")):
        # CUDA would see no GPU, and the work would silently be done on the CPU.
        expected = "expected numbers of GPUs such as 0,1 (or UUIDs), or nothing for no GPU"
        raise ArgumentError("CUDA_VISIBLE_DEVICES", f"{expected}, got {text!r}")
