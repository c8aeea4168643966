"""Progress of a generation run, in forwards of all ranks together (see `cost`)."""

import time
from collections.abc import Iterable

from ..runtime import dist_util, progress_bars
from ..translation.sequences import Sequences
from . import cost


class Progress:
    """Count of forwards as sequences are finished; every rank creates it at the same place.

    The sequences that are left are taken to need as many forwards each as the finished sequences
    did on average.

    Args:
        parts: sequences of each direction that are left to make.
    """

    def __init__(self, parts: Iterable[Sequences]) -> None:
        self.parts = list(parts)
        self.sequences = sum(map(len, self.parts))
        planned = 0
        for part in self.parts:
            ends = part.source.diffusion, part.target.diffusion
            planned += len(part) * cost.forwards(*ends, part.recipe).total
        # One counter for forwards and finished sequences, since two could be read at unlike times.
        self.counter, self.base = dist_util.Counter(), self.sequences + 1
        self.counted = self._made()
        self.bar = progress_bars.progress((), total=planned, unit="forward", unit_scale=True)
        self.start = time.monotonic()

    def update(self) -> dict[str, float]:
        """Count the forwards that this rank has made since the last call.

        Returns:
            `forwards` done, `forwards_left` and `minutes_left`, of all ranks together, for the log.
        """
        before, self.counted = self.counted, self._made()
        made, finished = divmod(self.counter.add(self.counted - before), self.base)
        left = round((self.sequences - finished) * made / finished)
        self.bar.total = made + left
        self.bar.update(made - self.bar.n)
        minutes = left / made * (time.monotonic() - self.start) / 60
        return {"forwards": made, "forwards_left": left, "minutes_left": float(f"{minutes:.3g}")}

    def _made(self) -> int:
        return sum(part.forwards * self.base + part.decoded for part in self.parts)
