"""Files that others may have made: opened only where a plain file lies, and read within bounds."""

import json
import os
import re
import stat
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ..errors import UserError
from . import faults

# How files begin that stand for data kept elsewhere, as patterns: what they are, how to fetch it.
POINTERS = {
    rb"version https://git-lfs": ("a pointer of Git LFS", "git lfs pull"),
    rb"((\.\./)*\.git)?/annex/objects/": ("a pointer of git-annex", "git annex get"),
}
LONGEST_POINTER = 2**15  # bytes
LARGEST_JSON = 2**24  # bytes; an args.json of ours holds a few thousand
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(mode: int) -> str:
    """Return what a path is by its `st_mode`, such as "a named pipe"; "" for a plain file."""
    return next((name for is_kind, name in KINDS if is_kind(mode)), "")


def size_of(path: str | os.PathLike) -> int:
    """Return the size of a plain file, bytes.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if something else lies there, which reading might wait for without end, or a
            link to nothing, as of data that was not fetched.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise UserError(f"{dangling(path)}, or remove the link") from None
        raise
    except NotADirectoryError as error:  # a file where a folder should be
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        raise unreadable(path, error) from None
    if kind := kind_of(found.st_mode):
        raise UserError(f"{path}: expected a file, got {kind}")
    return found.st_size


def dangling(path: str | os.PathLike) -> str:
    """Describe a link whose target is missing, and how to fetch it."""
    target = os.readlink(path)
    tool = "git annex get" if "annex" in target else "dvc pull, git annex get or the like"
    return f"{path}: a link to {target}, which is not there; fetch the data ({tool})"


def pointer(beginning: bytes) -> str:
    """Describe a file that stands for data kept elsewhere, by its first bytes; "" for others."""
    for sign, (kind, tool) in POINTERS.items():
        if re.match(sign, beginning):
            return f"{kind}; fetch the data: {tool}"
    return ""


def read_bytes(path: str | os.PathLike, most: int | None = None) -> bytes:
    """Read a plain file whole.

    Args:
        path: path of the file.
        most: largest size in bytes; None: any.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is larger, cannot be read, or is a pointer to data kept elsewhere.
    """
    size = size_of(path)
    if most is not None and size > most:
        raise UserError(f"{path}: expected at most {most:,} bytes, got {size:,}")
    try:
        faults.point("read.file")
        with open(path, "rb") as file:
            content = file.read(size)
    except FileNotFoundError:
        raise
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from None
    if size <= LONGEST_POINTER and (found := pointer(content)):
        raise UserError(f"{path}: expected the file itself, got {found}")
    return content


def unreadable(path: str | os.PathLike, error: BaseException) -> UserError:
    """Return the mistake to raise where a file that may be whole cannot be read."""
    if isinstance(error, MemoryError):
        reason = "there is not enough memory for it"
    else:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = reason.splitlines()[0]
    return UserError(f"{path}: cannot be read ({reason}); nothing was changed")


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file of moderate size.

    Args:
        path: path of the file.
        expected: description of what it should hold, for messages.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it cannot be read or is not JSON.
    """
    content = read_bytes(path, LARGEST_JSON)
    try:
        return json.loads(content.decode("utf-8-sig"))  # editors on Windows add a mark in front
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected {expected}, got {type(error).__name__}") from None


def mapped_array(path: Path, mode: str = "r") -> np.memmap:
    """Map an .npy file into memory.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: in a few words, if it is no whole array of numbers.
    """
    if not size_of(path):
        raise ValueError("an empty file")
    try:
        return open_memmap(path, mode)
    # numpy reads the header as Python text, which fails in many ways; its own words give advice
    # that is not safe.
    except (ValueError, TypeError, KeyError, EOFError, SyntaxError, ArithmeticError) as error:
        raise ValueError(f"no whole array ({type(error).__name__})") from None
    except (RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"no array ({type(error).__name__})") from None
