"""Load the tensors of a file onto the CPU: .pt in either format of torch, or .safetensors.

Nothing that is loaded can run code. A file that is damaged raises a `DamagedFileError`; a file that
cannot be read although it may be whole, or that holds something else, raises a `UserError`.
"""

import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch as th

from ..errors import DamagedFileError, UserError, require
from ..runtime.input_files import unreadable
from ..runtime.memory import is_lack_of_memory
from .foreign_weights import refuse_odd_tensors
from .integrity import ARCHIVE, check_content, read_whole

SAFETENSORS = ".safetensors"
LONGEST_REASON = 120  # letters of torch's own words in a message


def read_file(path: str | Path) -> tuple[Any, str]:
    """Load tensors, and numbers, text, lists and dicts around them, onto the CPU.

    Returns:
        what the file holds, and the SHA-256 of the file in hexadecimal.

    Raises:
        DamagedFileError: if the file is cut off or its content changed since it was written.
        UserError: if it is missing, cannot be read, or holds anything else.
    """
    try:
        content, sha256, recorded = read_whole(path)
        check_content(path, content, sha256, recorded)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except MemoryError as error:
        raise unreadable(path, error) from None
    if str(path).endswith(SAFETENSORS):
        found = _safetensors(content, path)
    elif content.startswith(ARCHIVE):
        found = _archive(content, path)
    else:
        found = _older_format(content, path)
    refuse_odd_tensors(found, path)
    return found, sha256


def _safetensors(content: bytes, path: str | Path) -> Any:
    safe = require("safetensors.torch", "safetensors")
    try:
        return safe.load(content)
    except MemoryError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # each version raises errors of its own
        raise _damaged(path, first_line(error)) from None


def _archive(content: bytes, path: str | Path) -> Any:
    try:
        return _unpickle(content)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path}: {_could_run_code(kind[1] if kind else 'a pickle of something else')}"
        ) from None
    except MemoryError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # on a damaged file torch.load raises almost anything
        if is_lack_of_memory(error):
            raise unreadable(path, MemoryError()) from None
        raise _damaged(path, first_line(error)) from None


def _older_format(content: bytes, path: str | Path) -> Any:
    # The format of torch before 1.6 has no checksums. Anything that is no checkpoint ends here too.
    try:
        return _unpickle(content)
    except pickle.UnpicklingError:
        problem = _could_run_code("text or a pickle of something else")
        raise DamagedFileError(f"{path}: {problem}") from None
    except MemoryError as error:
        raise unreadable(path, error) from None
    except Exception as error:
        raise _damaged(path, first_line(error)) from None


def _unpickle(content: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of tensors that are refused afterwards
        return th.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _could_run_code(found: str) -> str:
    return (
        f"expected a checkpoint of plain tensors, got {found}, "
        "which is not loaded since it could run code"
    )


def _damaged(path: str | Path, reason: str) -> DamagedFileError:
    told = f" ({reason[:LONGEST_REASON]})" if any(map(str.isalpha, reason)) else ""
    found = f"a file that cannot be read{told}"
    return DamagedFileError(f"{path}: expected a whole checkpoint, got {found}")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
