"""The benchmark: a row per contestant with the promised numbers, and mistakes named."""

import functools
import json
import pickle
import shutil
from dataclasses import replace

import pytest
from support.cli import TINY_MODEL, call, load_script, snapshot, succeed

from guided_diffusion import dist_util
from guided_diffusion.benchmark import neighbours, published, scaling, solver_accuracy, timing
from guided_diffusion.benchmark.solver_accuracy import engines
from guided_diffusion.translation.settings import PRESETS

NAMES = ["sequence", "train", "forward", "scaling", "neighbours", "quality"]
KEYS = {
    "measurement",
    "against",
    "rows",
    "extrapolated",
    "matmul_peak",
    "device",
    "threads",
    "seconds",
    "torch",
    "numpy",
    "python",
    "guided_diffusion",
}
ROW = {"name", "seconds", "median", "ratio", "forwards", "share_of_peak", "peak_memory"}
ENDS = ("source", "target")
FEW_ROUNDS = ["--rounds", 2, "--device", "cpu"]


class InThisProcess:
    """A `timing.Worker` that spares the start of a process; its memory is not its own."""

    def __init__(self, build, *args, device):
        sent = pickle.loads(pickle.dumps((build, args)))
        self.contestant = sent[0](*sent[1])

    def run(self, *args):
        return timing.timed(lambda: self.contestant(*args), dist_util.dev())

    def end(self):
        pass

    close = end


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch):
    monkeypatch.setattr(timing, "MATMUL_SIDE", {"cpu": 64})


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(timing, "Worker", InThisProcess)


def measured(tmp_path, *argv):
    out = tmp_path / "benchmark.jsonl"
    result = succeed("benchmark", *argv, "--out", out)
    record = json.loads(out.read_text().splitlines()[-1])
    assert record["measurement"] == argv[0] and record.keys() >= KEYS
    for row in record["rows"]:
        assert row.keys() >= ROW and row["name"] in result.out
        assert len(row["seconds"]) == record["rounds"] and min(row["seconds"]) > 0
        assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
    return record, {row["name"]: row for row in record["rows"]}, result.out


def respaced(run, folder):
    """Copy a training run into a folder, with a process of 20 levels."""
    shutil.copytree(run, folder)
    record = json.loads((folder / "args.json").read_text())
    record["args"]["timestep_respacing"] = "20"
    (folder / "args.json").write_text(json.dumps(record))
    return folder


def test_engines_are_compared_with_the_converged_one(runs, tmp_path):
    ends = {f"--{end}_model": respaced(getattr(runs, end), tmp_path / end) for end in ENDS}
    models = [word for pair in ends.items() for word in pair]
    out = tmp_path / "benchmark.jsonl"
    flags = ["--data_dir", runs.images, "--num_images", 2, "--grids", "mixed", "--device", "cpu"]
    result = succeed("benchmark", *models, *flags, "--out", out)
    record = json.loads(out.read_text())
    rows = {row["engine"]: row for row in record["rows"]}
    assert record["depths"] == [6, 12, 20] and record["images"] == 2
    assert list(rows)[0] == "converged"
    assert {"published", "published, bf16", "aligned"} < rows.keys()
    assert rows["converged"]["psnr"] == [float("inf")] * 3
    assert rows["published"]["forwards"] == 20 + 6 + 12 + 20
    for pooled, each in zip(rows["fast"]["psnr"], rows["fast"]["psnr_of_each"], strict=True):
        assert len(each) == 2 and min(each) < pooled < max(each)
    few = [rows[name]["psnr"][2] for name in ("mixed, order 2, 10 steps", "fast")]
    assert few[0] < few[1]
    assert all(name in result.out for name in rows)
    halved = rows["converged, half the steps"]["psnr"]
    assert f"is {halved[0]:.1f}, " in result.out.splitlines()[-2]
    assert all(0 < value < float("inf") for value in halved)


def test_presets_are_among_the_engines_in_either_precision():
    found = {name: engine for name, *engine in engines(["mixed", "logsnr"], 1000)}
    assert len(found) == 2 + 2 * 4 + 2 + 2 * 3 * 4
    for preset, flags in PRESETS.items():
        walk, precision = found[preset]
        assert precision == "fp32" and walk.values().items() >= flags.items()
        assert found[f"{preset}, bf16"] == [walk, "bf16"]


@pytest.mark.parametrize("budget", [0, 0.1])
def test_sequences_over_the_published_ones(one_process, tmp_path, budget):
    flags = [*TINY_MODEL, "--diffusion_steps", 24, "--amount", 3, "--num_images", 2]
    flags += ["--engines", "fp32,draft"]
    record, rows, text = measured(tmp_path, "sequence", *flags, *FEW_ROUNDS, "--budget", budget)
    assert list(rows) == ["published", "fp32", "draft"]
    depths = rows["published"]["depths"]
    assert len(depths) == 2 and rows["fp32"]["depths"] == depths
    expected = sum(published.count_forwards(each, 24) for each in depths)
    again = sum(max(each) for each in depths)
    assert rows["published"]["forwards"] == expected == rows["fp32"]["forwards"] + again
    # Within the budget ten of the levels were walked, and the published way for one image.
    whole = not budget
    timed = {name: row["forwards_timed"] for name, row in rows.items()}
    assert record["levels_timed"] == (24 if whole else 10)
    assert (timed["published"] == expected) == (timed["fp32"] == expected - again) == whole
    assert record["extrapolated"] != whole and ("extrapolated from" in text) != whole
    assert not rows["draft"]["extrapolated"]


def test_training_over_the_published_one(runs, tmp_path):
    flags = [*TINY_MODEL, "--data_dir", runs.images, "--batch_size", 4, "--steps", 2]
    record, rows, text = measured(tmp_path, "train", *flags, *FEW_ROUNDS, "--profile", True)
    assert list(rows) == ["published", "fp32", "bf16"]
    assert record["steps"] == 2 and not record["extrapolated"]
    for row in rows.values():
        assert row["images_per_second"] == row["forwards"] / row["median"] == 8 / row["median"]
        shares = row["operators"]
        assert "aten::convolution_backward" in shares and 0.1 < sum(shares.values()) < 1
        assert f"its time: {next(iter(shares))} " in text


def test_a_forward_in_its_variants(tmp_path):
    flags = [*TINY_MODEL, "--batch_sizes", "1,2", "--repeats", 2]
    record, _, _ = measured(tmp_path, "forward", *flags, *FEW_ROUNDS, "--profile", True)
    found = [(row["name"], row["batch_size"]) for row in record["rows"]]
    assert ("published", 1) in found and ("fp32, hybrid blended", 2) in found
    assert len(found) == len(set(found))
    assert {row["forwards"] / row["batch_size"] for row in record["rows"]} == {2}
    assert all(0.1 < sum(row["operators"].values()) < 1 for row in record["rows"])


# In place of the sampler: notes its flags and what it is told of waiting.
STAND_IN = """
import json, os, sys
with open(sys.argv[1], "a") as notes:
    flags = dict(word[2:].split("=", 1) for word in sys.argv[2:])
    print(json.dumps(flags | {key: os.environ.get(key) for key in %s}), file=notes)
"""


def test_time_beside_neighbours(tmp_path, monkeypatch):
    code, notes = STAND_IN % list(neighbours.UNSET), tmp_path / "notes.jsonl"
    monkeypatch.setattr(scaling, "SAMPLER", ["-c", code, str(notes)])
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    flags = "--num_images 3 --amount 2 --neighbours 1 --rounds 2 --device cpu".split()
    out = tmp_path / "benchmark.jsonl"
    text = succeed("benchmark", "neighbours", *flags, "--out", out).out
    record = json.loads(out.read_text())
    assert record.keys() >= KEYS - {"against", "matmul_peak", "threads"}
    found = [(row["neighbours"], row["name"]) for row in record["rows"]]
    assert found == [(count, way) for count in (0, 1) for way in neighbours.WAITING]
    for row in record["rows"]:
        assert len(row["seconds"]) == 2 and row["name"] in text
        assert min(row["seconds"]) <= row["median"] <= max(row["seconds"])
    runs = [json.loads(line) for line in notes.read_text().splitlines()]
    ways = [neighbours.UNSET | way for way in neighbours.WAITING.values()]
    assert [{key: run[key] for key in neighbours.UNSET} for run in runs] == ways * 4
    assert all(
        (run["num_images"], run["amount"], run["device"]) == ("3", "2", "cpu") for run in runs
    )
    assert len({run["out_dir"] for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "speed",
            "expected one of sequence, train, forward, scaling, neighbours, quality",
        ),
        ("sequence --engines fp32,slow", "--engines: expected some of fp32,bf16,fast,draft"),
        ("sequence --amount 50 --image_size 16 --diffusion_steps 40", "--amount: expected 1 to 40"),
        ("forward --batch_sizes 0", "--batch_sizes: expected numbers above 0, got 0"),
        ("train --batch_size 99", "--batch_size: expected at most the 16 images"),
        ("train --against memory", "--against: invalid choice"),
        ("scaling --counts many", "--counts: expected numbers"),
        ("quality --grids foo", "--grids: expected some of time,quadratic,logsnr,mixed, got 'foo'"),
        ("--grids mixed,", "--grids: expected some of time,quadratic,logsnr,mixed, got 'mixed,'"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(argv, message, tmp_path, monkeypatch):
    monkeypatch.setattr(solver_accuracy, "load_domain", None)
    result = call("benchmark", *argv.split(), "--out", tmp_path / "out", "--device", "cpu")
    assert result.code == 2 and message in result.last
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["none/out", "file/out", ""])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path, monkeypatch, name, place
):
    (tmp_path / "file").write_bytes(b"kept")
    script = load_script("benchmark")
    measurement = script.MEASUREMENTS[name]
    never = functools.wraps(measurement.measure)(lambda *settings: pytest.fail("measured"))
    monkeypatch.setitem(script.MEASUREMENTS, name, replace(measurement, measure=never))
    result = call(script, name, "--out", tmp_path / place, "--device", "cpu")
    assert result.code == 2 and "--out: expected a file in a folder that can be" in result.last
    assert snapshot(tmp_path) == {"file": b"kept"}


@pytest.mark.parametrize("name", NAMES)
def test_help_lists_the_flags_of_a_measurement(name):
    result = call("benchmark", name, "--help")
    assert result.code == 0 and "--out" in result.out
    assert ("--num_channels" in result.out) == (name in ("sequence", "train", "forward"))
