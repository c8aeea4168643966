"""Scaling: the sampler's script in processes of its own, by the numbers of images and ranks."""

import json

import pytest

from guided_diffusion.benchmark import scaling
from guided_diffusion.benchmark.settings import ScalingSettings
from guided_diffusion.errors import UserError
from guided_diffusion.generation import demo


def asked(**flags):
    usual = {
        "counts": "1,2",
        "rank_images": 2,
        "steps": 1,
        "batch_size": 1,
        "rounds": 3,
        "device": "cpu",
    }
    return ScalingSettings(**usual | flags)


# In place of the sampler: notes where and how it runs, and tells a peak of its own invention.
STAND_IN = """
import json, os, sys
from pathlib import Path

flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
rank, ranks, threads = (os.environ.get(k) for k in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS"))
made = Path(flags["out_dir"], f"made by {rank}")
run = {"images": int(flags["num_images"]), "ranks": ranks, "threads": threads}
run["again"] = made.exists()
assert len(os.listdir(flags["data_dir"])) == 2 and flags["encode_steps"] == flags["decode_steps"]
made.parent.mkdir(exist_ok=True)
made.touch()
notes = Path(__file__).with_suffix(".jsonl").open("a+")
notes.write(json.dumps(run) + "\\n")
notes.seek(0)
print("look at it", 1000 * len(notes.readlines()), sep="\\n")
"""
RUN_ALONE = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


def test_each_figure_is_a_run_of_the_sampler(tmp_path, monkeypatch):
    sampler = tmp_path / "sampler.py"
    sampler.write_text(STAND_IN)
    monkeypatch.setattr(scaling, "SAMPLER", [str(sampler)])
    monkeypatch.setattr(scaling, "MEASURED", ["-c", RUN_ALONE, str(sampler)])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    record = scaling.scaling(asked())
    assert record["peak_memory_of_each"] == {1: [1000, 3000, 5000], 2: [2000, 4000, 6000]}
    assert record["peak_memory"] == {1: 3000, 2: 4000} and record["memory_ratio"] == 4 / 3
    runs = [json.loads(line) for line in (tmp_path / "sampler.jsonl").read_text().splitlines()]
    measured, timed = runs[:6], runs[6:]
    assert [run["images"] for run in measured] == [1, 2] * 3
    assert not any(run["again"] or run["ranks"] or run["threads"] for run in measured)
    assert [run["ranks"] for run in timed] == [None] * 2 + ["2"] * 4
    assert [run["again"] for run in timed] == [False, True, False, False, True, True]
    assert all(run["threads"] == "1" and run["images"] == 2 for run in timed)
    assert record["ratio"] == record["ranks"][1]["whole"] / record["ranks"][2]["whole"]
    assert len(scaling.lines(record)) == 6


def test_the_sampler_tells_its_peak_of_memory(tmp_path):
    flags = scaling._flags(asked(), demo.PLACES["data_dir"], 1, tmp_path / "run")
    assert int(scaling.run(scaling.MEASURED, flags).split()[-1]) > 50e6
    assert (tmp_path / "run").is_dir()


def test_a_mistake_of_the_sampler_is_passed_on():
    with pytest.raises(UserError, match="--num_images"):
        scaling.run(scaling.SAMPLER, ["--num_images=-1"])
