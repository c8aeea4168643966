"""The pictures of the policies of depth, from one encoding."""

import pytest
from PIL import Image
from support.cli import call, succeed

from guided_diffusion.data import pictures, plots
from guided_diffusion.translation import depth_policies, encode_decode


def test_both_pictures_are_drawn_from_one_encoding(runs, tmp_path, monkeypatch):
    captions, panels, encoded = [], {}, []
    grid, encode, row = pictures.grid, encode_decode.encode, plots.curve_row

    def noting_grid(rows, found, scale):
        captions.extend(found)
        return grid(rows, found, scale)

    def noting_row(found, *rest):
        panels.update(found)
        row(found, *rest)

    monkeypatch.setattr(pictures, "grid", noting_grid)
    monkeypatch.setattr(plots, "curve_row", noting_row)
    monkeypatch.setattr(
        encode_decode, "encode", lambda *a, **k: encoded.append(a) or encode(*a, **k)
    )
    models = ["--source_model", runs.source, "--target_model", runs.target]
    flags = ["--data_dir", runs.images, "--amount", 3, "--steps", 6, "--device", "cpu"]
    succeed("compare_depths", *models, *flags, "--out_dir", tmp_path)
    assert len(encoded) == 1 and len(captions) == 2 * 3
    assert [line[0].split(",")[0] for line in captions] == [*depth_policies.POLICIES] * 2
    assert captions[2][1:] == ["d13", "d27", "d40"]
    for index, (values, choosers) in enumerate(panels.values()):
        assert values.shape == (40,)
        lines = captions[3 * index : 3 * index + 3]
        assert [[f"d{d}" for d in places] for places in choosers.values()] == [
            line[1:] for line in lines
        ]
    for name in ("depths.png", "curves.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.getcolors(1 << 24)) > 50


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--amount 41", "--amount: expected 1 to 40"),
        ("--steps 41", "--encode_steps: "),
        ("--source_model=", "--source_model: expected together with --data_dir"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(runs, tmp_path, flags, message):
    models = ["--source_model", runs.source, "--target_model", runs.target]
    out = ["--data_dir", runs.images, "--device", "cpu", "--out_dir", tmp_path / "out"]
    result = call("compare_depths", *models, *out, *flags.split())
    assert result.code == 2 and message in result.last
    assert not (tmp_path / "out").exists()
