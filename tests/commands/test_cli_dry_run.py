"""`--dry_run` and the forwards in a run's log: what is announced is what is done."""

import json
import shutil

import pytest
from support.cli import SEQUENCES, call, read_csv, snapshot, succeed

from guided_diffusion.generation import dry_run

UNIFORM = ["--depth_policy", "uniform"]  # depths 3, 5 and 8 of 8
PER_IMAGE = 8 + 3 + 5 + 8


def announced(result):
    return dict(line.split(maxsplit=1) for line in result.out.splitlines())


def rows(folder):
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    succeed(SEQUENCES, *runs.sequences, *UNIFORM, "--out_dir", folder)
    return folder


def test_a_dry_run_tells_what_the_run_then_does_and_writes_nothing(runs, made, tmp_path):
    flags = [*runs.sequences, *UNIFORM, "--out_dir", tmp_path / "run", "--dry_run", "True"]
    told = announced(succeed(SEQUENCES, *flags))
    assert not list(tmp_path.iterdir())
    assert told["sequences"] == "3 of 3 to make"
    assert told["forwards"] == str(3 * PER_IMAGE) == str(rows(made)[-1]["forwards"])
    assert "FLOP per forward, " in told["FLOPs"] and "about" not in told["FLOPs"]
    arrays = sum(path.stat().st_size for path in made.rglob("*.npy"))
    assert told["disk"].startswith(f"{dry_run.readable(arrays, 'B')} of arrays, about ")
    assert " on this machine with 1 rank, by 3 forwards" in told["time"]


def test_depths_that_are_not_known_yet_are_told_as_an_estimate_and_a_bound(runs, tmp_path):
    both = ["--bidirectional", "True", "--target_data_dir", runs.images, "--dry_run", "True"]
    told = announced(succeed(SEQUENCES, *runs.sequences, *both, "--out_dir", tmp_path / "run"))
    assert told["sequences"] == "6 of 6 to make"
    assert told["forwards"] == f"about {6 * PER_IMAGE}, at most {6 * (8 + 3 * 8)}"
    assert ", about" in told["FLOPs"]


@pytest.mark.parametrize(("count", "line"), [(5, ""), (0, ""), (100, "100: there are only 5 in ")])
def test_more_images_than_there_are_is_one_line_of_the_log(runs, tmp_path, count, line):
    flags = [*runs.sequences, *UNIFORM, "--out_dir", tmp_path / "run", "--num_images", count]
    told = succeed(SEQUENCES, *flags, "--dry_run", "True").out
    assert told.count("--num_images") == bool(line) and line in told
    assert "5 of 5 to make" in told


def test_a_preset_takes_no_more_steps_than_there_are_levels(runs, tmp_path):
    flags = [*runs.sequences, *UNIFORM, "--preset", "fast", "--out_dir", tmp_path / "run"]
    told = announced(succeed(SEQUENCES, *flags, "--dry_run", "True"))
    succeed(SEQUENCES, *flags)
    assert told["forwards"] == str(3 * PER_IMAGE) == str(rows(tmp_path / "run")[-1]["forwards"])
    used = json.loads((tmp_path / "run" / "args.json").read_text())["args"]
    assert used["encode_steps"] == used["decode_steps"] == 8
    refused = call(SEQUENCES, *flags, "--encode_steps", 32, "--out_dir", tmp_path / "other")
    assert refused.code == 2 and "--encode_steps: expected 1 to 8 steps" in refused.last


def test_a_run_that_goes_on_counts_what_is_left(runs, made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    (tmp_path / "run" / "translation_0_1" / "images" / "00001" / "02.png").unlink()
    flags = [*runs.sequences, *UNIFORM, "--out_dir", tmp_path / "run"]
    before = snapshot(tmp_path)
    told = announced(succeed(SEQUENCES, *flags, "--dry_run", "True"))
    assert (told["sequences"], told["forwards"]) == ("1 of 3 to make", str(PER_IMAGE))
    assert snapshot(tmp_path) == before
    succeed(SEQUENCES, *flags)
    assert [(row["forwards"], row["forwards_left"]) for row in rows(tmp_path / "run")][-1:] == [
        (PER_IMAGE, 0)
    ]


def test_the_log_counts_forwards_and_ends_without_any_left(runs, made, tmp_path):
    counted = [(row["forwards"], row["forwards_left"]) for row in rows(made)]
    assert counted == [(n * PER_IMAGE, (3 - n) * PER_IMAGE) for n in (1, 2, 3)]
    assert [row["minutes_left"] > 0 for row in rows(made)] == [True, True, False]
    succeed(SEQUENCES, *runs.sequences, "--depth_policy", "add", "--out_dir", tmp_path)
    depths = [int(row["depth"]) for row in read_csv(tmp_path / "translation_0_1" / "manifest.csv")]
    assert rows(tmp_path)[-1]["forwards"] == 3 * 8 + sum(depths)
    assert rows(tmp_path)[-1]["forwards_left"] == 0


def test_the_images_of_a_batch_are_counted_together(runs, tmp_path):
    succeed(SEQUENCES, *runs.sequences, *UNIFORM, "--batch_size", 2, "--out_dir", tmp_path)
    counted = [(row["forwards"], row["forwards_left"]) for row in rows(tmp_path)]
    assert counted == [(2 * PER_IMAGE, PER_IMAGE)] * 2 + [(3 * PER_IMAGE, 0)]


@pytest.mark.parametrize("launcher", ["mpiexec", "torchrun"])
def test_two_ranks_announce_once_and_count_together(two_ranks, launcher, runs, tmp_path):
    flags = [*runs.sequences, *UNIFORM, "--out_dir", tmp_path / "run"]
    result = two_ranks.run(launcher, SEQUENCES, *flags, "--dry_run", "True")
    assert result.code == 0, result.err
    assert result.out.count(f"{runs.images}: 5 images") == 1
    assert [line.split()[0] for line in result.out.splitlines()][-5:] == [
        "sequences",
        "forwards",
        "FLOPs",
        "disk",
        "time",
    ]
    assert "with 2 ranks" in result.out and not (tmp_path / "run").exists()
    result = two_ranks.run(launcher, SEQUENCES, *flags)
    assert result.code == 0, result.err
    logs = (tmp_path / "run").glob("progress*.jsonl")
    found = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    counted = sorted((row["forwards"], row["forwards_left"]) for row in found)
    assert counted == [(n * PER_IMAGE, (3 - n) * PER_IMAGE) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (2.5e12, "2.5 TB"), (3e21, "3e+03 EB")],
)
def test_numbers_are_told_in_units_that_suit_them(value, text):
    assert dry_run.readable(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2, "3 s"), (90, "2 min"), (12000, "3 h 20 min"), (3599, "1 h 0 min"), (90000, "1 d 1 h")],
)
def test_times_are_told_in_their_two_largest_units(seconds, text):
    assert dry_run.duration(seconds) == text
