"""The benchmark: a row per engine, and the converged one is nearest to itself."""

import json

from cli import succeed


def test_engines_are_compared_with_the_converged_one(runs, tmp_path):
    models = ["--source_model", runs.source, "--target_model", runs.target]
    out = tmp_path / "benchmark.jsonl"
    flags = ["--data_dir", runs.images, "--num_images", 2, "--grids", "mixed", "--device", "cpu"]
    result = succeed("benchmark", *models, *flags, "--out", out)
    record = json.loads(out.read_text())
    rows = {row["engine"]: row for row in record["rows"]}
    assert record["depths"] == [12, 24, 40] and record["images"] == 2
    assert list(rows)[:4] == ["converged", "published", "published, bf16", "aligned"]
    assert rows["converged"]["psnr"] == [float("inf")] * 3
    assert rows["published"]["forwards"] == 40 + 12 + 24 + 40
    assert "mixed, order 2, 20 steps" in rows and "mixed, order 2, 40 steps" not in rows
    few = [rows[f"mixed, order 2, {steps} steps"]["psnr"][2] for steps in (10, 20)]
    assert few[0] < few[1]
    assert all(name in result.out for name in rows)
