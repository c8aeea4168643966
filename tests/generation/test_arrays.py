"""Arrays of a translation folder, apart from whole runs."""

import numpy as np
import pytest

from guided_diffusion.generation.arrays import EntryArray


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_an_unfinished_array_replaces_no_finished_one(tmp_path, content):
    array, example = EntryArray(tmp_path, "target", 2), np.ones((2, 3), np.uint8)
    array.store(0, example)
    array.store(1, example)
    array.finish()
    array.partial.write_bytes(content)
    assert not array.fits(example)
    array.prepare(example)
    array.finish()
    assert np.load(array.path).all() and not array.partial.exists()
