"""Work for many ranks: batches of items, one after another taken by the rank that is free.

The result of an item must not depend on its batch or its rank.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from ..errors import IncompleteError
from . import dist_util, logger, stop_requests

_STOP = 1 << 40  # in the number of batches taken: no more are; times the reason

T = TypeVar("T")

ATTEMPTS = 3  # to make a result whose files vanish or change during the run


def deal(count: int, batch_size: int, ranks: int = 1) -> list[list[int]]:
    """Cut 0..count-1 into batches of at most `batch_size`, for several ranks to take in turn.

    A batch is at most a rank's share of the rest, so that the last ones are small and all ranks
    end at about the same time (guided self-scheduling).
    """
    batches, rest = [], range(count)
    while rest:
        size = min(batch_size, -(-len(rest) // ranks))
        batches.append(list(rest[:size]))
        rest = rest[size:]
    return batches


class SharedBatches(Generic[T]):
    """Batches of items for this rank, which takes another whenever it has done one.

    Every rank creates it, at the same point of the program, and iterates once. When any rank is
    asked to end, each does the batch at hand, and then all end together; see `stop_requests`.

    Args:
        items: items of all ranks together.
        batch_size: largest number of items in a batch.
    """

    def __init__(self, items: Sequence[T], batch_size: int) -> None:
        batches = deal(len(items), batch_size, dist_util.world_size())
        self.batches = [[items[i] for i in batch] for batch in batches]
        self.taken = dist_util.Counter()

    def __len__(self) -> int:
        """Return the number of batches that a rank gets if all are equally fast."""
        return -(-len(self.batches) // dist_util.world_size())

    def __iter__(self) -> Iterator[list[T]]:
        with stop_requests.StopSignal() as signal:
            while (turn := self._take(signal.due())) <= len(self.batches):
                yield self.batches[turn - 1]
            if reason := turn // _STOP:
                dist_util.barrier()  # a rank that ends while another still talks to it can abort
                stop_requests.stop(reason)

    def _take(self, reason: int) -> int:
        # All ranks stop, or none: who takes a batch after the last one knows that none can stop.
        if reason:
            self.taken.add_below(len(self.batches), reason * _STOP)
        return self.taken.add(1)


def rounds(
    missing: Callable[[], list[T]], place: object, name: Callable[[T], str]
) -> Iterator[list[T]]:
    """Yield the items that are left to make, first all, then those whose files are lost meanwhile.

    Every rank iterates, and makes its share of the items before it asks for the next round.

    Args:
        missing: function that lists the items whose results are not whole, on rank 0 alone.
        place: folder of the results.
        name: function that names the result of an item.

    Raises:
        IncompleteError: if results are not whole after `ATTEMPTS` rounds.
    """
    for attempt in range(ATTEMPTS + 1):
        left = dist_util.once(missing)
        if attempt and not left:
            return
        if attempt == ATTEMPTS:
            raise IncompleteError(place, list(map(name, left)))
        if attempt and dist_util.rank() == 0:
            lost = f"files of {len(left)} results vanished or changed during the run"
            logger.warn(f"{lost}; making them again")
        yield left
        if not left:
            return
        dist_util.barrier()
