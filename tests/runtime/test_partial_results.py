"""Records of images on disk: made once, kept by a stopped run, seen while they are made."""

import numpy as np
import pytest

from guided_diffusion.runtime import partial_results

FIELDS = [("square", np.float32), ("pair", np.int64, (2,))]


class Maker:
    """Makes the record of i from i, and notes what it was asked for; stops before one index."""

    def __init__(self, stop=None):
        self.asked, self.stop = [], stop

    def __call__(self, indices):
        if self.stop in indices:
            raise KeyboardInterrupt
        self.asked.append(list(indices))
        numbers = np.array(indices)
        return {"square": numbers**2, "pair": np.stack([numbers, -numbers], axis=1)}


def test_every_record_is_made_once_and_seen_when_it_is(tmp_path):
    make, seen = Maker(), []
    for found in partial_results.fill(tmp_path / "r.npy", FIELDS, 5, 2, make):
        seen.append(found["finished"].tolist())
    assert make.asked == [[0, 1], [2, 3], [4]]
    assert seen == [[True] * 2 + [False] * 3, [True] * 4 + [False], [True] * 5]
    assert found["square"].tolist() == [0, 1, 4, 9, 16]
    assert found["pair"].tolist() == [[i, -i] for i in range(5)]
    assert [path.name for path in tmp_path.iterdir()] == ["r.npy"]


def test_what_a_stopped_run_made_is_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        list(partial_results.fill(tmp_path / "r.npy", FIELDS, 5, 2, Maker(stop=2)))
    make = Maker()
    *_, found = partial_results.fill(tmp_path / "r.npy", FIELDS, 5, 4, make)
    assert make.asked == [[2, 3, 4]]
    assert found["square"].tolist() == [0, 1, 4, 9, 16]


def test_where_all_is_made_it_is_seen_all_the_same(tmp_path):
    list(partial_results.fill(tmp_path / "r.npy", FIELDS, 3, 2, Maker()))
    make = Maker()
    (found,) = partial_results.fill(tmp_path / "r.npy", FIELDS, 3, 2, make)
    assert make.asked == [] and found["square"].tolist() == [0, 1, 4]
