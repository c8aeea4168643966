"""Scripts written after upstream's, each under four launchers; see the folder `scripts`.

A launcher starts one process per rank, and in it all scripts run one after another.
"""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch as th
from PIL import Image
from support.cli import DEADLINE, LAUNCHERS, ROOT, Result, command, draw_images, kill, start
from support.upstream_program import awake

from guided_diffusion.script_util import (
    create_model,
    create_model_and_diffusion_2d,
    model_and_diffusion_defaults_2d,
)

SCRIPT = Path(__file__).parent / "scripts" / "all_scripts.py"
NAMES = [f"{number}_{index}" for index, number in enumerate((260, 7, 260, 31))]


def write_weights(folder):
    """Write the weights of each network that a script loads."""
    sizes = dict(
        image_size=16,
        num_channels=32,
        num_res_blocks=1,
        channel_mult="1,2",
        num_heads=2,
        attention_resolutions="8",
        use_scale_shift_norm=True,
    )
    kinds = {
        "conditional": {"class_cond": True},
        "learned": {"learn_sigma": True},
        "conditionless": {"learn_sigma": True},
    }
    for name, kind in kinds.items():
        th.save(awake(create_model(**sizes, **kind)).state_dict(), folder / f"{name}.pt")
    flags = dict(model_and_diffusion_defaults_2d(), num_channels=32, diffusion_steps=40)
    for name in ("points_a", "points_b"):
        model, _ = create_model_and_diffusion_2d(**flags)
        th.save(awake(model).state_dict(), folder / f"{name}.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the weights and images that the scripts read."""
    folder = tmp_path_factory.mktemp("data")
    th.manual_seed(0)
    write_weights(folder)
    draw_images(folder / "images", 6)
    drawn = sorted(draw_images(folder / "drawn", len(NAMES)).iterdir())
    (folder / "numbered").mkdir()
    for name, file in zip(NAMES, drawn, strict=True):
        Image.open(file).save(folder / "numbered" / f"{name}.PNG", format="png")
    base = np.random.RandomState(0).randint(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "base.npz", base)
    return folder


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """What each launcher left: {launcher: (its Result, its folder)}."""
    outs = {launcher: tmp_path_factory.mktemp("out") for launcher in LAUNCHERS}
    path, found = f"{SCRIPT.parent}:{ROOT}", {}
    with contextlib.ExitStack() as stack:
        started = {}
        for launcher, out in outs.items():
            process = start(command(launcher, SCRIPT, data, out), PYTHONPATH=path)
            started[launcher] = stack.enter_context(process)
            stack.callback(kill, process)
        for launcher, process in started.items():
            texts = process.communicate(timeout=DEADLINE)
            found[launcher] = Result(process.returncode, *texts), outs[launcher]
    return found


@pytest.fixture(params=LAUNCHERS)
def run(request, results):
    """(number of ranks, exit code and output, folder) of one launcher."""
    return LAUNCHERS[request.param], *results[request.param]


def arrays(path):
    """Return the arrays of a file that a script saved."""
    with np.load(path) as file:
        return [file[name] for name in file.files]


def of_all(results, pattern):
    """Return {file name: its arrays} of each launcher, in which all must agree."""
    found = [
        {path.name: arrays(path) for path in sorted(out.glob(pattern))}
        for _, out in results.values()
    ]
    assert found[0]
    return found


def test_every_rank_ends_well_and_knows_its_place(run):
    ranks, result, out = run
    assert result.code == 0, result.err
    places = [json.loads((out / f"rank_{rank}.json").read_text()) for rank in range(ranks)]
    assert len(list(out.glob("rank_*.json"))) == ranks
    for rank, place in enumerate(places):
        assert (place["rank"], place["world_size"]) == (rank, ranks)
        assert place.get("mpi", [rank, ranks]) == [rank, ranks] and len(place["done"]) == 10
    assert "Logging to" in result.out and "sampling complete" in result.out
    text = (out / "log" / "log.txt").read_text()
    assert "created" in text and "bpd=" in text and "translating batch 3" in text


def test_samples_of_all_ranks_are_gathered(run):
    _, _, out = run
    for name in ("samples", "guided"):
        images, labels = arrays(out / "log" / f"{name}_5x16x16x3.npz")
        assert images.shape == (5, 16, 16, 3) and images.dtype == np.uint8 and len(labels) == 5
        assert len({image.tobytes() for image in images}) == 5
    (enlarged,) = arrays(out / "enlarged.npz")
    assert enlarged.shape == (3, 64, 64, 3) and enlarged.std() > 0


def test_likelihoods_are_reduced_over_the_ranks(run):
    ranks, _, out = run
    values = [arrays(out / f"likelihood_{rank}.npz")[0] for rank in range(ranks)]
    assert all(np.array_equal(value, values[0]) for value in values)
    total, complete, bound = values[0]
    assert complete == 4 and np.isfinite(total) and bound > 0


def test_likelihoods_agree_between_launchers(results):
    found = [arrays(out / "likelihood_0.npz")[0][0] for _, out in results.values()]
    np.testing.assert_allclose(found, found[0], rtol=0.1)  # their noise differs


def test_training_leaves_one_model_on_all_ranks(run):
    ranks, _, out = run
    for name in ("trained", "classifier"):
        (sums,) = arrays(out / f"{name}.npz")
        assert len(sums) == ranks and np.array_equal(sums[0], sums[-1])
    names = {path.name for path in (out / "trained").iterdir()}
    for step in (2, 4):
        assert {f"model{step:06d}.pt", f"ema_0.9_{step:06d}.pt", f"opt{step:06d}.pt"} <= names
    assert (out / "points" / "model000002.pt").exists()
    assert "train_loss" in (out / "log" / "progress.csv").read_text()
    state = th.load(out / "trained" / "model000004.pt", weights_only=True)
    assert th.isfinite(state["out.2.weight"]).all() and state["out.2.weight"].any()
    sum_of_first = sum(arrays(out / "trained.npz")[0][0])
    total = sum(v.double().sum().item() for v in state.values())
    assert total == pytest.approx(sum_of_first)


def cycle_at_once(data, points):
    """Return points, latents, translations and the way back, of all points together."""
    flags = dict(model_and_diffusion_defaults_2d(), num_channels=32, diffusion_steps=40)
    models = []
    for name in ("points_a", "points_b"):
        model, diffusion = create_model_and_diffusion_2d(**{**flags, "timestep_respacing": "10"})
        model.load_state_dict(th.load(data / f"{name}.pt", weights_only=True))
        models.append(model.eval())
    found = [th.from_numpy(points)]
    for source, target in (models, reversed(models)):
        found.append(diffusion.ddim_reverse_sample_loop(source, found[-1], clip_denoised=False))
        found.append(
            diffusion.ddim_sample_loop(target, points.shape, noise=found[-1], clip_denoised=False)
        )
    return [part.numpy() for part in (*found[:3], found[4])]


def test_points_are_translated_alike_everywhere(results, data):
    found = [arrays(path) for _, out in results.values() for path in out.glob("points_*.npz")]
    assert len(found) == sum(LAUNCHERS.values())
    expected = cycle_at_once(data, found[0][0][0])
    for points, sizes in found:
        assert sizes.tolist() == [6, 6, 6, 2] and points.shape == (4, 20, 2)
        np.testing.assert_allclose(points, np.stack(expected), rtol=1e-3, atol=1e-3)
    assert np.abs(expected[2] - expected[0]).max() > 0.01


@pytest.mark.parametrize("kind", ["class", "progress"])
def test_images_are_translated_alike_everywhere(results, kind):
    first, *others = of_all(results, f"{kind}_*.npz")
    assert set(first) == {f"{kind}_{name}.npz" for name in NAMES}
    for name, (image, number) in first.items():
        if kind == "class":
            assert number == int(name.split("_")[1]) and image.shape == (3, 16, 16)
        else:
            assert len(number) == len(image) == 3 and (np.diff(number) >= 0).all()
        for other in others:
            np.testing.assert_allclose(other[name][0], image, atol=1e-3)
            assert np.array_equal(other[name][1], number)
