"""Batches for many ranks: all is dealt once, to whoever comes, in batches that shrink."""

import pytest

from guided_diffusion import dist_util
from guided_diffusion.runtime.work_sharing import SharedBatches, deal


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 5, 6, 40])
def test_every_item_is_in_one_batch_and_none_is_larger_than_a_share(count, ranks):
    batches = deal(count, 3, ranks)
    assert [i for batch in batches for i in batch] == list(range(count))
    left = count
    for batch in batches:
        assert 1 <= len(batch) <= 3 and len(batch) - 1 < left / ranks
        left -= len(batch)


def test_batches_shrink_towards_the_end_for_several_ranks_alone():
    assert [len(batch) for batch in deal(22, 8, 1)] == [8, 8, 6]
    assert [len(batch) for batch in deal(22, 8, 2)] == [8, 7, 4, 2, 1]
    assert [len(batch) for batch in deal(22, 1, 2)] == [1] * 22


def test_alone_all_batches_come_in_order_each_time_they_are_dealt():
    for _ in range(2):
        assert list(SharedBatches("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert len(SharedBatches("abcde", 2)) == 3 and list(SharedBatches("", 2)) == []


def test_ranks_that_come_by_turns_get_different_batches(monkeypatch):
    monkeypatch.setattr(dist_util, "world_size", lambda: 2)
    one, other = SharedBatches(range(8), 3), SharedBatches(range(8), 3)
    other.taken = one.taken  # as through a store
    first, second = iter(one), iter(other)
    assert [next(first), next(second), next(second)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(first) == [[7]] and list(second) == []
    assert len(one) == 2
