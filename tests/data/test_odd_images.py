"""The corpus of odd images: each file has the pixels of the table, or is refused by its name."""

import re

import numpy as np
import pytest
from support.odd_images import CASES

from guided_diffusion.data.image_source import ImageFiles
from guided_diffusion.data.reading import ReadingSettings
from guided_diffusion.errors import UserError


@pytest.mark.parametrize("name", CASES)
def test_an_odd_file_has_the_right_pixels_or_is_refused(tmp_path, name):
    case = CASES[name]
    path = case.write(tmp_path)
    images = ImageFiles([str(path)], case.side, 3, ReadingSettings(**case.flags))
    if case.pixels is None:
        with pytest.raises(UserError) as refused:
            images.tile(0)
        assert str(path) in str(refused.value)
        assert re.search(case.message, str(refused.value)), refused.value
        assert "<_io" not in str(refused.value) and "\n" not in str(refused.value)
        return
    tile = images.tile(0)
    assert tile.shape == case.pixels.shape
    assert np.abs(tile.astype(int) - case.pixels).max() <= case.near
    remarks = " ".join(images.remarks)
    assert re.search(case.message, remarks) if case.message else not remarks
