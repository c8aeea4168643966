"""Scaling: the sampler's script in processes of its own, by the numbers of images and ranks."""

import pytest

from guided_diffusion.benchmark import scaling
from guided_diffusion.benchmark.settings import ScalingSettings
from guided_diffusion.errors import UserError


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


def test_each_figure_is_a_run_of_the_sampler(monkeypatch):
    runs = []

    def run(program, flags, **env):
        runs.append((" ".join(program), " ".join(flags), env))
        return f"look at it\n{1000 * len(runs)}\n"

    monkeypatch.setattr(scaling, "run", run)
    record = scaling.scaling(asked())
    assert record["peak_memory_of_each"] == {1: [1000, 3000, 5000], 2: [2000, 4000, 6000]}
    assert record["peak_memory"] == {1: 3000, 2: 4000} and record["memory_ratio"] == 4 / 3
    images = [int(flags.partition("--num_images=")[2].split()[0]) for _, flags, _ in runs]
    assert images == [1, 2] * 3 + [2] * 4
    launched = ["--nproc_per_node=2" in program for program, _, _ in runs]
    assert launched == [False] * 8 + [True] * 2
    assert [env.get("OMP_NUM_THREADS") for _, _, env in runs] == [None] * 6 + ["1"] * 4
    assert record["ratio"] == record["ranks"][1]["whole"] / record["ranks"][2]["whole"]
    assert len(scaling.lines(record)) == 6


def test_the_sampler_tells_its_peak_of_memory(tmp_path):
    tiles = scaling._copy_tiles(tmp_path / "tiles", 1)
    assert scaling._peak(asked(), tiles, 1, tmp_path / "run") > 50e6
    assert (tmp_path / "run").is_dir()


def test_a_mistake_of_the_sampler_is_passed_on():
    with pytest.raises(UserError, match="--num_images"):
        scaling.run(scaling.SAMPLER, ["--num_images=-1"])
