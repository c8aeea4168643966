"""Say how much of a generation run is done, in forwards of all ranks together (see `cost`)."""

import time
from collections.abc import Iterable

from ..runtime import dist_util, progress_bars
from ..translation.sequences import Sequences
from . import cost


class Progress:
    """Counts forwards as sequences are finished; every rank creates it at the same place.

    A sequence that is left is taken to need more or fewer forwards than planned in the proportion
    of the finished ones, whose depths are known.

    Args:
        parts: the sequences of each direction, which know what is left to do.
    """

    def __init__(self, parts: Iterable[Sequences]) -> None:
        self.parts = {
            part: cost.forwards(part.source.diffusion, part.target.diffusion, part.recipe).total
            for part in parts
        }
        self.planned = sum(len(part) * plan for part, plan in self.parts.items())
        self.made, self.passed = dist_util.Counter(), dist_util.Counter()
        self.counted = (0, 0)  # what this rank has added to the two
        self.bar = progress_bars.progress((), total=self.planned, unit="forward", unit_scale=True)
        self.start = time.monotonic()

    def after(self) -> dict[str, float]:
        """Count what this rank has made since the last call, and return what the log says.

        Returns:
            `forwards` done, `forwards_left` and `minutes_left`, of all ranks together.
        """
        before = self.counted
        forwards = sum(part.forwards for part in self.parts)
        self.counted = forwards, sum(part.decoded * plan for part, plan in self.parts.items())
        made = self.made.add(self.counted[0] - before[0])
        passed = self.passed.add(self.counted[1] - before[1])
        left = round((self.planned - passed) * made / passed)
        self.bar.total = made + left
        self.bar.update(made - self.bar.n)
        minutes = left / made * (time.monotonic() - self.start) / 60
        return {"forwards": made, "forwards_left": left, "minutes_left": float(f"{minutes:.3g}")}
