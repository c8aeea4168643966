"""The commands of the four upstreams' readmes, alone and under every launcher."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.cli import LAUNCHERS, ROOT, command, draw_images, launch, picture, read_csv

DRIVER = Path(__file__).parents[1] / "support" / "readme_commands.py"
COUNT = 4  # images, of two classes


def npz(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_commands_of_upstreams_readmes_do_their_job(launcher, tmp_path):
    draw_images(tmp_path / "images", COUNT)
    small = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "small.npz", arr_0=small, arr_1=np.array([0, 1, 0]))
    result = launch(command(launcher, DRIVER, tmp_path), PYTHONPATH=f"{DRIVER.parents[1]}:{ROOT}")
    assert result.code == 0, result.err
    assert "Traceback" not in result.err

    for run in ("improved", "guided", "upsampler", "domain"):
        names = {path.name for path in (tmp_path / run).iterdir()}
        assert {"model000002.pt", "ema_0.9999_000002.pt", "opt000002.pt"} <= names
    samples = npz(tmp_path / "improved_samples" / "samples_3x16x16x3.npz")["arr_0"]
    assert samples.shape == (3, 16, 16, 3) and samples.std() > 1
    for folder in ("guided_samples", "ddim_samples", "large_samples", "base"):
        assert npz(tmp_path / folder / "samples_3x16x16x3.npz")["arr_0"].dtype == np.uint8
    rows = read_csv(tmp_path / "improved_nll" / "progress.csv")
    assert float(rows[-1]["bpd"]) > 0
    assert npz(tmp_path / "points" / "samples_50x2.npz")["arr_0"].shape == (50, 2)
    cycle = npz(tmp_path / "cycle" / "cycle_0_1.npz")
    assert cycle["cycle"].shape == (50, 2) and np.isfinite(cycle["cycle"]).all()
    assert npz(tmp_path / "translation" / "translation_0_1.npz")["target"].shape == (50, 2)
    assert len(list((tmp_path / "classes").glob("*_to_*/*.png"))) == COUNT
    manifest = read_csv(tmp_path / "sequences" / "translation_0_1" / "manifest.csv")
    assert len(manifest) == COUNT * (3 + 1)
    first = tmp_path / "sequences" / "translation_0_1" / manifest[0]["file_name"]
    assert picture(first).shape == (16, 16, 3)
    assert json.loads((tmp_path / "sequences" / "args.json").read_text())["args"]["amount"] == 3
