"""Lack of memory: how torch, numpy and Python say it, and what a user can do."""

from collections.abc import Collection

import torch as th

# torch has an exception of its own for GPUs alone; elsewhere the text tells.
_SIGNS = (
    "DefaultCPUAllocator",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# Flags that take less memory when they are lowered, the most harmless first.
_LOWER = ("microbatch", "max_batch", "batch_size", "trajectory_memory")


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory has run out."""
    if isinstance(error, (MemoryError, th.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def report_on_memory(error: BaseException, known: Collection[str]) -> str:
    """Return one line on a lack of memory, with the flags to lower.

    Args:
        error: the exception.
        known: names of the command's settings.
    """
    flags = [f"--{name}" for name in _LOWER if name in known]
    advice = f"lower {' or '.join(flags)}" if flags else "take smaller or fewer images"
    if "use_checkpoint" in known and "lr" in known:
        advice += ", or give --use_checkpoint True"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"out of memory; {advice}, or end other programs ({first[:200]})"
