"""The ablation of attention: what is trained, what is measured, and the whole command."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.cli import call, draw_images, load_script, succeed
from support.hybrid_networks import hybrid
from support.toy_domains import domain

from guided_diffusion.benchmark import ablation
from guided_diffusion.evaluation.feature_extractors import SmallNetwork
from guided_diffusion.translation.depth_policies import Depths
from guided_diffusion.translation.sequences import ImageSequence

SMALL = (
    "--image_size 16 --num_channels 32 --attention_resolutions 8 --max_steps 1 --batch_size 2 "
    "--amount 2 --num_images 8 --precision fp32 --device cpu"
).split()


def sequence(source, *images):
    stack = torch.stack([torch.from_numpy(x).movedim(-1, 0).float() / 127.5 - 1 for x in images])
    return ImageSequence(0, "", source, Depths([1] * len(images)), [0], stack, stack, [])


def test_every_row_has_its_models():
    trained = {(name, end) for chain in ablation.trainings() for name, end, *_ in chain}
    needed = {(row.source, "source") for row in ablation.ROWS}
    assert needed | {(row.target, "target") for row in ablation.ROWS} == trained


def test_a_target_starts_from_a_source_that_is_trained_before_it():
    for chain in ablation.trainings():
        for place, (_, end, _, start) in enumerate(chain):
            assert (start == "") == (end == "source")
            earlier = {(name, kind) for name, kind, *_ in chain[:place]}
            assert end == "source" or (start, "source") in earlier


class Silent(torch.nn.Module):
    """Predicts no noise at all."""

    def forward(self, x, t):
        return torch.zeros_like(x).repeat(1, 2, 1, 1)


def test_the_loss_of_a_network_that_predicts_nothing_is_that_of_the_noise():
    images = torch.zeros(12, 3, 16, 16)
    found = ablation.mean_loss(domain(Silent(), 16), images, "global", seed=0)
    assert found == pytest.approx(1, abs=0.01)
    parts = ablation.mean_loss(domain(Silent(), 16), images, "global", seed=0, batch_size=5)
    assert parts == pytest.approx(found, abs=1e-6)
    assert ablation.mean_loss(domain(Silent(), 16), images, "global", seed=1) != found


def test_the_loss_is_that_of_the_role():
    two, images = domain(hybrid("both", learn_sigma=True), 16), torch.zeros(2, 3, 16, 16)
    found = {role: ablation.mean_loss(two, images, role, seed=0) for role in ("global", "local")}
    assert found["global"] != found["local"]


def test_structure_is_kept_by_a_copy_and_not_by_noise():
    rng = np.random.default_rng(0)
    source, noise = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    kept = ablation.structure_kept([sequence(source, source, source // 2 + 60, noise)])
    assert kept[0] == pytest.approx(1, abs=1e-3)
    assert 1 > kept[1] > 0.5 > 0.2 > abs(kept[2])


def test_distance_of_equal_sets_is_about_none():
    tiles = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 16, 3), dtype=np.uint8)
    extractor = SmallNetwork(torch.device("cpu"))
    reference = ablation.features_of(extractor, tiles[0])
    near = ablation.distance(extractor, reference, tiles[1], seed=0)
    far = ablation.distance(extractor, reference, tiles[1] // 2, seed=0)
    assert abs(near) < 0.1 * far


@pytest.fixture
def two_rows(monkeypatch):
    """Train the standard kind only, and read it in either order."""
    monkeypatch.setattr(ablation, "MODELS", {"standard": {}})
    monkeypatch.setattr(ablation, "ROWS", (ablation.ROWS[0], ablation.ROWS[-1]))


def no_pool(jobs):
    """Stand in for a pool of threads: the work is done at once, by the caller."""
    return contextlib.nullcontext(SimpleNamespace(map=map))


def test_the_command_prints_one_table_and_goes_on_where_it_stopped(two_rows, tmp_path, monkeypatch):
    folders = [draw_images(tmp_path / name, 8, seed=i) for i, name in enumerate("abcd")]
    names = ("data_dir", "target_data_dir", "val_data_dir", "val_target_data_dir")
    places = [word for n, path in zip(names, folders, strict=True) for word in (f"--{n}", path)]
    out = tmp_path / "out"
    script = load_script("ablate_attention")
    few = {"solver_order": 1, "encode_steps": 4, "decode_steps": 4}
    monkeypatch.setattr(script, "WALK", script.WALK.replace(**few))
    monkeypatch.setattr(script, "ThreadPoolExecutor", no_pool)
    monkeypatch.setattr(script, "run_command", succeed)  # spares the start of four processes
    result = succeed(script, *SMALL, *places, "--out_dir", out)
    rows = json.loads((out / "ablation.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [row.name for row in ablation.ROWS]
    assert all(len(row["ssim"]) == len(row["kid"]) == 2 and row["n"] == 8 for row in rows)
    assert "mix-up: source in the other order" in result.out and "N = 8" in result.out
    assert (out / "ablation.png").exists()
    weights = out / "models" / "standard_source" / "model000001.pt"
    before = weights.stat().st_mtime_ns
    again = succeed(script, *SMALL, *places, "--out_dir", out)
    assert again.out.splitlines()[-3:] == result.out.splitlines()[-3:]
    assert weights.stat().st_mtime_ns == before


def test_a_part_of_the_folders_is_refused(tmp_path):
    result = call("ablate_attention", "--data_dir", tmp_path, "--out_dir", tmp_path / "out")
    assert result.code == 2
    assert "target_data_dir: expected together with --data_dir, got none" in result.last


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attention_resolutions", "a"], "attention_resolutions"),
        (["--num_channels", "40"], "num_channels"),
        (["--image_size", "18"], "image_size"),
        (["--ema_rate", "2"], "ema_rate"),
        (["--lr", "-1"], "lr"),
        (["--amount", "2000"], "amount"),
        (["--out_dir", "/proc/nowhere"], "out_dir"),
        (["--data_dir", "empty"], "target_data_dir: expected together"),
    ],
)
def test_mistakes_are_found_before_anything_is_drawn_or_trained(
    tmp_path, monkeypatch, flags, message
):
    asked = []
    monkeypatch.setattr(load_script("ablate_attention"), "run_command", lambda *w: asked.append(w))
    result = call("ablate_attention", *SMALL, "--out_dir", tmp_path / "out", *flags)
    assert result.code == 2 and message in result.last, result.err
    assert not asked and not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["empty", "few", "broken"])
def test_folders_are_looked_at_before_anything_is_trained(tmp_path, monkeypatch, damage):
    names, asked = ("data_dir", "target_data_dir", "val_data_dir", "val_target_data_dir"), []
    monkeypatch.setattr(load_script("ablate_attention"), "run_command", lambda *w: asked.append(w))
    for name in names:
        draw_images(tmp_path / name, 8)
    last = tmp_path / names[-1]
    for file in list(last.iterdir())[{"empty": 0, "few": 1, "broken": 8}[damage] :]:
        file.unlink()
    if damage == "broken":
        next(iter(last.iterdir())).write_bytes(b"no image")
    places = [word for name in names for word in (f"--{name}", tmp_path / name)]
    result = call("ablate_attention", *SMALL, *places, "--out_dir", tmp_path / "out")
    assert result.code == 2 and str(last) in result.last
    assert not asked and not (tmp_path / "out").exists()


def test_a_run_of_other_flags_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    folder = tmp_path / "out" / "models" / "hybrid-both_target"
    folder.mkdir(parents=True)
    record = {"script": "image_train", "args": {"lr": 0.5}}
    (folder / "args.json").write_text(json.dumps(record))
    result = call("ablate_attention", *SMALL, "--out_dir", tmp_path / "out")
    assert result.code == 2 and "--lr was 0.5" in result.last
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"models"}
