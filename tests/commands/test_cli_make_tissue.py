"""`make_tissue.py` writes the files it lists, repeatably, and refuses bad flags in one line."""

from __future__ import annotations

import csv
import pathlib
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from support.cli import ROOT, load_script

from guided_diffusion.data.drawn_tissue import draw_tile


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("make_tissue")


def rows(folder: pathlib.Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def pictures(folder: pathlib.Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def test_files_and_index_agree_with_each_other_and_with_draw_tile(
    script: ModuleType, tmp_path: pathlib.Path
) -> None:
    flags = ["--severity", "0.5", "--num_images", "3", "--image_size", "32", "--seed", "40"]
    script.main(["--out_dir", str(tmp_path), *flags])
    listed = rows(tmp_path)
    assert [row["file"] for row in listed] == [f"0.5_{i:05d}.png" for i in range(3)]
    assert [row["seed"] for row in listed] == ["40", "41", "42"]
    assert set(pictures(tmp_path)) == {row["file"] for row in listed}
    assert {p.name for p in tmp_path.iterdir()} == {*pictures(tmp_path), "index.csv"}
    for row in listed:
        assert 0.45 <= float(row["severity"]) <= 0.55
        with Image.open(tmp_path / row["file"]) as image:
            drawn = draw_tile(int(row["seed"]), float(row["severity"]), 32)
            np.testing.assert_array_equal(np.asarray(image), drawn)


def test_stages_get_a_subfolder_each_and_share_no_seed(
    script: ModuleType, tmp_path: pathlib.Path
) -> None:
    flags = ["--stages", "normal=0.05,tumour=0.9", "--num_images", "4", "--image_size", "16"]
    script.main(["--out_dir", str(tmp_path), "--severity_spread", "0.1", *flags])
    listed = rows(tmp_path)
    assert len({row["seed"] for row in listed}) == 8
    for name, low, high in (("normal", 0.0, 0.15), ("tumour", 0.8, 1.0)):
        mine = [row for row in listed if row["file"].startswith(f"{name}/{name}_")]
        assert len(mine) == 4
        assert all(low <= float(row["severity"]) <= high for row in mine)


def test_the_same_command_writes_the_same_bytes_and_more_images_keep_the_first(
    script: ModuleType, tmp_path: pathlib.Path
) -> None:
    flags = ["--out_dir", str(tmp_path), "--stages", "a=0.2,b=0.8", "--image_size", "16"]
    script.main([*flags, "--num_images", "2"])
    first = pictures(tmp_path)
    script.main([*flags, "--num_images", "2"])
    assert pictures(tmp_path) == first
    script.main([*flags, "--num_images", "3"])
    assert pictures(tmp_path).items() > first.items()


def test_severities_fill_the_spread(script: ModuleType) -> None:
    flags = ["--out_dir", "unused", "--severity_spread", "0.1", "--num_images", "400"]
    tiles = script.plan(script.create_argparser().parse_args(flags))
    severities = [severity for *_, severity in tiles]
    counts, _ = np.histogram(severities, bins=4, range=(0.0, 0.2))
    assert counts.sum() == 400
    assert counts.min() > 70


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--severity", "1.2", "expected a number from 0 to 1, got '1.2'"),
        ("--severity", "nan", "expected a number from 0 to 1, got 'nan'"),
        ("--severity_spread", "wide", "expected a number from 0 to 1, got 'wide'"),
        ("--stages", "normal", "expected NAME=SEVERITY"),
        ("--stages", "../up=0.1", "expected NAME=SEVERITY"),
        ("--stages", "a=0.1,a=0.2", "expected NAME=SEVERITY"),
        ("--stages", "a=0.1,b=7", "severities from 0 to 1, got 'a=0.1,b=7'"),
        ("--num_images", "0", "expected a whole number of at least 1, got '0'"),
        ("--image_size", "15", "expected a whole number of at least 16, got '15'"),
        ("--seed", "-3", "expected a whole number of at least 0, got '-3'"),
    ],
)
def test_a_bad_flag_is_named_in_one_line(
    script: ModuleType,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    value: str,
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(["--out_dir", str(tmp_path / "out"), flag, value])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ") and f"{flag}: expected" in error and message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_out_dir_that_is_a_file_or_holds_other_pictures_is_refused(
    script: ModuleType, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "file"
    taken.write_text("kept")
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    for folder, found in ((taken, "File exists"), (tmp_path, "other.png")):
        with pytest.raises(SystemExit) as stop:
            script.main(["--out_dir", str(folder), "--num_images", "1"])
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert "--out_dir: expected" in error and found in error
    assert taken.read_text() == "kept"
    assert not (tmp_path / "index.csv").exists()


def test_it_runs_from_another_folder_and_help_gives_defaults(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_tissue.py"), "--help"]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "side of a tile, pixels (default: 64)" in done.stdout
