"""How far a generation run is, counted in forwards of all ranks together (see `cost`)."""

import time
from collections.abc import Iterable

from . import cost, dist_util, run
from .bridge import ImageSequence, Sequences


class Pace:
    """Counts forwards as sequences are finished; every rank creates it at the same place.

    What is left are the forwards of the sequences that are left, of which each is taken to need
    more or fewer than planned in the proportion of those that are finished: the depths of these
    are known.

    Args:
        parts: the sequences of each direction, which know what is left to do.
    """

    def __init__(self, parts: Iterable[Sequences]) -> None:
        self.planned = sum(len(part) * self._plan(part) for part in parts)
        self.made, self.passed = dist_util.Counter(), dist_util.Counter()
        self.bar = run.progress((), total=self.planned, unit="forward", unit_scale=True)
        self.start = time.monotonic()

    @staticmethod
    def _plan(part: Sequences) -> int:
        return cost.forwards(part.source.diffusion, part.target.diffusion, part.recipe).total

    def after(self, part: Sequences, sequence: ImageSequence) -> dict[str, float]:
        """Count a finished sequence, and return what the log says of the run.

        Returns:
            `forwards` done, `forwards_left` and `minutes_left`, of all ranks together.
        """
        engine, depths = part.recipe.engine, sequence.depths.values
        decoding = cost.decoding_forwards(part.target.diffusion, engine, depths)
        encoding = cost.forwards(part.source.diffusion, part.target.diffusion, part.recipe).encoding
        made, passed = self.made.add(encoding + decoding), self.passed.add(self._plan(part))
        left = round((self.planned - passed) * made / passed)
        self.bar.total = made + left
        self.bar.update(made - self.bar.n)
        minutes = left / made * (time.monotonic() - self.start) / 60
        return {"forwards": made, "forwards_left": left, "minutes_left": float(f"{minutes:.3g}")}
