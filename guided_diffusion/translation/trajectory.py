"""The states of a batch along an encoding, kept so that they can be decoded from any depth."""

import tempfile
from collections.abc import Sequence

import numpy as np
import torch as th

from ..diffusion.solvers import Multistep
from ..errors import blame
from ..runtime import atomic_files
from .moves import Move


class Trajectory:
    """States of a batch along an encoding, in memory or, where too large, in a file.

    The solver reaches a depth that was not visited by a shorter move from the visited state before
    it. Such a move takes no forward, since the predicted noise is kept too.

    Args:
        moves: moves of the encoding.
        clean: clean images, [N, C, H, W].
        solver: solver of the encoding.
        levels: noise level at each depth of the process, 0..T.
        memory_gb: most GB in memory.
    """

    def __init__(
        self,
        moves: Sequence[Move],
        clean: th.Tensor,
        solver: Multistep,
        levels: Sequence[float],
        memory_gb: float = 0.5,
    ) -> None:
        self.moves, self.levels, self.solver = moves, levels, solver
        self.depths = np.array([0, *(move.depth_next for move in moves)])
        gaps = len(moves) < moves[-1].depth_next
        memory_gb /= 2 if gaps else 1
        self.states = _large_array((len(moves) + 1, *clean.shape), memory_gb)
        self.states[0] = clean.numpy()
        # Only depths that were not visited need the noise.
        self.eps = _large_array((len(moves) if gaps else 0, *clean.shape), memory_gb)

    def store(self, move: int, states: th.Tensor, eps: th.Tensor) -> None:
        """Keep the states [N, C, H, W] after a move, and the predicted noise that it used."""
        self.states[move + 1] = states.cpu().numpy()
        if len(self.eps):
            self.eps[move] = eps.cpu().numpy()

    def at(self, image: int, depths: Sequence[int]) -> th.Tensor:
        """Return the states [len(depths), C, H, W] of one image at these depths."""
        return th.stack([self._state(image, depth) for depth in depths])

    def _state(self, image: int, depth: int) -> th.Tensor:
        last = int(np.searchsorted(self.depths, depth, side="right")) - 1
        if self.depths[last] == depth:
            return th.from_numpy(np.array(self.states[last, image]))
        used = []
        for move in range(max(0, last + 1 - self.solver.order), last + 1):
            x, eps = (
                th.from_numpy(np.array(kept[move, image]))[None] for kept in (self.states, self.eps)
            )
            used.append((self.moves[move].level_cur, x, eps))
        *past, (level, x, eps) = used
        return self.solver.step(x, level, self.levels[depth], eps, past)[0]


def _large_array(shape: Sequence[int], memory_gb: float) -> np.ndarray:
    size = 4 * int(np.prod(shape, dtype=np.float64))
    if size <= memory_gb * 1e9:
        return np.empty(shape, dtype=np.float32)
    hint = ", or let TMPDIR name a folder with more"
    with blame("trajectory_memory"):
        file = atomic_files.reserve(tempfile.TemporaryFile(), size, hint)
    return np.memmap(file, dtype=np.float32, mode="r+", shape=tuple(shape))
