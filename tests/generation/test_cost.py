"""Counts made before a run, against what the run then does."""

import pytest
from support.cli import draw_images
from support.reference_images import blurred_noise
from support.toy_domains import ReferenceSource, ReferenceTarget, domain

from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.generation import cost
from guided_diffusion.generation.export import Exporter
from guided_diffusion.translation.encode_decode import decode
from guided_diffusion.translation.predictor import Predictor
from guided_diffusion.translation.sequences import Recipe, Sequences
from guided_diffusion.translation.settings import (
    PRESETS,
    BatchSettings,
    DepthSettings,
    WalkSettings,
)

AMOUNT, STEPS = 4, 40
ENGINES = {name: WalkSettings(preset=name).resolved(9) for name in PRESETS}
PROCESS = ProcessSettings()
TINY = ModelSettings(
    image_size=16,
    num_channels=32,
    num_res_blocks=0,
    channel_mult="1",
    num_heads=2,
    attention_resolutions="16",
)


@pytest.fixture
def pair():
    return [domain(net(), 16, str(STEPS)) for net in (ReferenceSource, ReferenceTarget)]


@pytest.fixture
def files(tmp_path):
    return open_images(draw_images(tmp_path / "images", 5), 16)


def planned(pair, recipe):
    return cost.forwards(*(domain.diffusion for domain in pair), recipe)


@pytest.mark.parametrize("preset", ENGINES)
@pytest.mark.parametrize("policy", ["uniform", "even", "add", "3", "1,2,4,7", "2,5,8,9"])
def test_forwards_are_those_that_the_networks_then_make(pair, files, preset, policy):
    depths = DepthSettings(depths=policy) if policy[0].isdigit() else DepthSettings(AMOUNT, policy)
    recipe = Recipe(depths, ENGINES[preset], BatchSettings(2, 3))
    plan = planned(pair, recipe)
    sequences = Sequences(*pair, files, recipe)
    made = [s.depths.values for s in sequences]
    assert sequences.encoder.forwards == len(files) * plan.encoding
    known = sum(cost.decoding_forwards(pair[1].diffusion, recipe.walk, d) for d in made)
    assert sequences.decoder.forwards == known <= len(files) * plan.bound
    assert plan.total == plan.encoding + plan.decoding
    if policy not in ("even", "add"):
        assert known == len(files) * plan.decoding and plan.bound == plan.decoding
    else:
        assert plan.decoding < plan.bound == AMOUNT * (recipe.walk.decode_steps or STEPS)


@pytest.mark.parametrize("engine", [ENGINES["published"], ENGINES["fast"]])
def test_forwards_of_depths_of_which_some_are_clean_or_between_two_levels(pair, engine):
    depths, predict = [0, 1, 2, 17, 40, 40], Predictor(pair[1])
    for d in depths:
        decode(predict, blurred_noise(0, 16), [d], engine)
    assert cost.decoding_forwards(pair[1].diffusion, engine, depths) == predict.forwards


def test_flops_are_those_of_a_count_by_hand():
    pixels, width, embedding = 16 * 16, 32, 128
    block = 2 * 9 * width * width * pixels + embedding * 2 * width
    attention = width * 3 * width * pixels + 2 * pixels * pixels * width + width * width * pixels
    joined = (9 * 2 + 9 + 2) * width * width * pixels
    multiplications = (
        width * embedding
        + embedding * embedding  # the timestep
        + 9 * 3 * width * pixels  # the first layer
        + block
        + attention
        + block  # the middle
        + joined
        + embedding * 2 * width
        + attention  # the way up, of one block with its skip
        + 9 * width * 3 * pixels  # the last layer
    )
    assert cost.flops(TINY, PROCESS) == 2 * multiplications


@pytest.mark.parametrize(
    "flags", [{"class_cond": True}, {"use_fp16": True}, {"use_new_attention_order": True}]
)
def test_flops_do_not_depend_on_how_a_network_is_stored(flags):
    assert cost.flops(TINY.replace(**flags), PROCESS) == cost.flops(TINY, PROCESS)


def test_a_network_that_no_memory_holds_is_counted():
    wide = TINY.replace(num_channels=2**14, num_res_blocks=9, num_head_channels=64)
    assert cost.flops(wide, PROCESS) > 1e13


@pytest.mark.parametrize("arrays", [{}, {"save_latents": True}, {"save_npy": False}])
def test_bytes_of_arrays_are_exact_and_of_pictures_near(pair, files, tmp_path, arrays):
    recipe = Recipe(DepthSettings(AMOUNT, "uniform"), ENGINES["draft"])
    exporter = Exporter(tmp_path / "t", ("a", "b"), recipe, len(files), **arrays)
    sequences = Sequences(*pair, files, recipe)
    exporter.prepare([files.name(index) for index in range(len(files))], files.tile)
    for sequence in sequences:
        exporter.save(sequence)
    exporter.merge()
    exporter.finish()
    sizes = {path: path.stat().st_size for path in (tmp_path / "t").rglob("*") if path.is_file()}
    of_arrays = sum(size for path, size in sizes.items() if path.suffix == ".npy")
    shape = AMOUNT, (3, 16, 16), len(files)
    assert cost.array_bytes(exporter.arrays, *shape) == of_arrays
    others = sum(sizes.values()) - of_arrays
    assert others / 2 < cost.picture_bytes(*shape) < 2 * others
