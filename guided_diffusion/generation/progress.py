"""Progress of a generation run, in forwards of all ranks together (see `cost`)."""

import time
from collections.abc import Iterable

from ..runtime import dist_util, progress_bars
from ..translation.sequences import Sequences
from . import cost


class Progress:
    """Count of forwards as sequences are finished; every rank creates it at the same place.

    The forwards left are estimated as the planned ones, times the ratio of made to planned forwards
    of the finished sequences, whose depths are known.

    Args:
        parts: sequences of each direction that are left to make.
    """

    def __init__(self, parts: Iterable[Sequences]) -> None:
        self.parts = {
            part: cost.forwards(part.source.diffusion, part.target.diffusion, part.recipe).total
            for part in parts
        }
        self.planned = sum(len(part) * plan for part, plan in self.parts.items())
        # Forwards made for the finished sequences of all ranks, and planned for the same sequences.
        self.made, self.finished = dist_util.Counter(), dist_util.Counter()
        self.counted = (0, 0)  # what this rank has added to the two
        self.bar = progress_bars.progress((), total=self.planned, unit="forward", unit_scale=True)
        self.start = time.monotonic()

    def update(self) -> dict[str, float]:
        """Count the forwards that this rank has made since the last call.

        Returns:
            `forwards` done, `forwards_left` and `minutes_left`, of all ranks together, for the log.
        """
        before = self.counted
        forwards = sum(part.forwards for part in self.parts)
        self.counted = forwards, sum(part.decoded * plan for part, plan in self.parts.items())
        made = self.made.add(self.counted[0] - before[0])
        finished = self.finished.add(self.counted[1] - before[1])
        left = round((self.planned - finished) * made / finished)
        self.bar.total = made + left
        self.bar.update(made - self.bar.n)
        minutes = left / made * (time.monotonic() - self.start) / 60
        return {"forwards": made, "forwards_left": left, "minutes_left": float(f"{minutes:.3g}")}
