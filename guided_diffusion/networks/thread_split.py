"""Results of half-precision CPU kernels that do not depend on threads and on the batch.

Two of torch's kernels for channels_last images cut a batch into one part for each thread, in the
middle of an image if need be: group normalisation of large images and transposed convolution. They
add up in another order there. In float32 that is far below a grey level; in bfloat16 it moves a
rounding now and then, and a walk of hundreds of moves makes it visible. With a number of images
that the threads divide, the cuts fall between images, and each image comes out as if it were alone
on one thread. The other kernels in use give each image the same bits in any batch, on any number of
threads (tests/networks/test_thread_split.py).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)
MOST_THREADS = 8  # with more, an image alone would waste most of the machine


def missing_images(x: Tensor) -> int:
    """Return how many images a half-precision batch lacks so that no thread shares an image."""
    threads = torch.get_num_threads()
    fits = x.is_cpu and x.dtype in HALVES and threads <= MOST_THREADS
    return -len(x) % threads if fits and not torch.compiler.is_compiling() else 0


def whole_images(kernel: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a kernel on a batch [N, ...] so that no thread shares an image with another."""
    if missing := missing_images(x):
        return kernel(filled_up(x, missing))[: len(x)]
    return kernel(x)


def filled_up(x: Tensor, missing: int) -> Tensor:
    """Return the images with `missing` images of zeros behind them, in the same memory layout."""
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, missing))
