"""Fixed depths: `--depths 300,600`, and one image from a chosen noise level."""

import json
import re

import numpy as np
import pytest
from support.cli import SEQUENCES, call, picture, read_csv, succeed

FOLDER = "translation_0_1"


def flags_without_amount(runs):
    place = runs.sequences.index("--amount")
    return runs.sequences[:place] + runs.sequences[place + 2 :]


def made(runs, out_dir, *flags):
    return succeed(SEQUENCES, *flags_without_amount(runs), *flags, "--out_dir", out_dir)


def test_fixed_depths_decide_number_manifest_and_array(runs, tmp_path):
    result = made(runs, tmp_path, "--depths", "2,5")
    folder = tmp_path / FOLDER
    rows = read_csv(folder / "manifest.csv")
    assert [row["depth"] for row in rows] == ["0", "2", "5"] * 3
    assert {row["depth_policy"] for row in rows} == {"fixed"}
    assert [row["label_1"] for row in rows[:3]] == ["0.0", "0.5", "1.0"]
    kept = [0, 6, 11, 17, 22, 28, 33, 39]  # 8 of 40, evenly
    assert [int(row["timestep"]) for row in rows[:3]] == [-1, kept[1], kept[4]]
    assert np.load(folder / "diffway.npy").tolist() == [[2, 5]] * 3
    record = json.loads((tmp_path / "args.json").read_text())["args"]
    assert (record["amount"], record["depths"]) == (2, "2,5")
    assert "fell back" not in result.out and "soft labels count steps" in result.out


@pytest.mark.parametrize("walk", [[], ["--preset", "draft"], ["--preset", "fast"]])
def test_images_at_fixed_depths_are_those_of_a_policy_that_chooses_them(runs, tmp_path, walk):
    made(runs, tmp_path / "even", "--amount", 3, "--depth_policy", "uniform", *walk)
    made(runs, tmp_path / "fixed", "--depths", "3, 5, 8", *walk)
    made(runs, tmp_path / "one", "--amount", 1, "--depths", "5", *walk)
    for index in range(3):
        paths = [tmp_path / name / FOLDER / f"images/{index:05d}" for name in ("even", "fixed")]
        for step in range(4):
            one, other = (picture(path / f"{step:02d}.png") for path in paths)
            assert np.array_equal(one, other)
        alone = picture(tmp_path / "one" / FOLDER / f"images/{index:05d}/01.png")
        difference = alone.astype(int) - picture(paths[1] / "02.png")
        assert abs(difference).max() <= 1
    assert len(list((tmp_path / "one" / FOLDER).glob("images/*/*.png"))) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--depths", "9"], "--depths: expected rising depths from 1 to 8 .*, got 9"),
        (["--depths", "0,3"], "--depths: expected rising depths from 1 to 8 .*, got 0,3"),
        (["--depths", "5,3"], "--depths: expected rising depths from 1 to 8"),
        (["--depths", "3,3"], "--depths: expected rising depths from 1 to 8"),
        (["--depths=-1,3"], "--depths: expected rising depths from 1 to 8"),
        (["--depths", "3,"], "--depths: expected numbers with commas between, got '3,'"),
        (["--depths", "a"], "--depths: expected numbers with commas between"),
        (["--depths", "2.5"], "--depths: expected numbers with commas between"),
        (["--depths", "2,5", "--amount", "10"], "--amount: expected 2 or none, .*--depths.*got 10"),
        (["--depths", "2,5", "--depth_policy", "even"], "--depth_policy: expected without"),
    ],
)
def test_depths_that_cannot_be_are_refused_before_anything_is_written(
    runs, tmp_path, flags, message
):
    out_dir = ["--out_dir", tmp_path / "run"]
    result = call(SEQUENCES, *flags_without_amount(runs), *flags, *out_dir)
    assert result.code == 2 and not (tmp_path / "run").exists()
    assert re.search(message, result.last), result.last


def test_searches_are_counted_where_depths_are_searched(runs, tmp_path):
    for policy, counted in (("add", True), ("even", False), ("uniform", False)):
        flags = ["--amount", 2, "--depth_policy", policy, "--num_images", 1]
        result = made(runs, tmp_path / policy, *flags)
        assert ("depth searches fell back" in result.out) == counted


def test_a_run_with_fixed_depths_goes_on_and_refuses_others(runs, tmp_path):
    made(runs, tmp_path, "--depths", "2,5")
    again = made(runs, tmp_path, "--depths", "2,5", "--amount", 2)
    assert "0 of 3 sequences to make" in again.out
    where = ["--out_dir", tmp_path]
    other = call(SEQUENCES, *flags_without_amount(runs), "--depths", "2,6", *where)
    assert other.code == 2 and "--depths was '2,5', is '2,6'" in other.last


def test_compare_depths_shows_fixed_depths_beside_the_policies(runs, tmp_path):
    places = ["--source_model", runs.source, "--target_model", runs.target]
    flags = [*places, "--data_dir", runs.images, "--num_images", 1, "--steps", 4, "--device", "cpu"]
    heights = {}
    for name, own in (("three", []), ("four", ["--depths", "10,20,30,35,40"])):
        succeed("compare_depths", *flags, *own, "--out_dir", tmp_path / name)
        heights[name] = picture(tmp_path / name / "depths.png").shape
    assert heights["four"][0] - 2 == (heights["three"][0] - 2) // 3 * 4
    assert heights["four"][1] == heights["three"][1]
    for own in (["--depths", "1,41"], ["--depths", "1,2", "--amount", 3]):
        result = call("compare_depths", *flags, *own, "--out_dir", tmp_path / "no")
        assert result.code == 2 and not (tmp_path / "no").exists()
