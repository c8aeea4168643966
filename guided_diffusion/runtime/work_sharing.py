"""Work for many ranks: batches of items, one after another taken by the rank that is free.

The result of an item must not depend on its batch or its rank.
"""

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from . import dist_util, stop_requests

_STOP = 1 << 40  # in the number of batches taken: no more are; times the reason

T = TypeVar("T")


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
