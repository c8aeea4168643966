"""Counts made before a run, against what the run then does."""

import pytest
from support.cli import draw_images
from support.reference_images import blurred_noise
from support.toy_domains import ReferenceSource, ReferenceTarget, domain

from guided_diffusion.config.translation_options import PRESETS
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.generation import cost
from guided_diffusion.generation.export import Exporter
from guided_diffusion.models.domains import IMAGE
from guided_diffusion.translation.sequences import Recipe, Sequences
from guided_diffusion.translation.walks import Engine, Predictor, decode

AMOUNT, STEPS = 4, 40
ENGINES = {
    name: {k: min(v, 9) if k.endswith("_steps") else v for k, v in preset.items()}
    for name, preset in PRESETS.items()
}
TINY = IMAGE.defaults() | {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 0,
    "channel_mult": "1",
    "num_heads": 2,
    "attention_resolutions": "16",
}


@pytest.fixture
def pair():
    return [domain(net(), 16, str(STEPS)) for net in (ReferenceSource, ReferenceTarget)]


@pytest.fixture
def files(tmp_path):
    return open_images(draw_images(tmp_path / "images", 5), 16)


def planned(pair, recipe):
    return cost.forwards(*(domain.diffusion for domain in pair), recipe)


@pytest.mark.parametrize("preset", ENGINES)
@pytest.mark.parametrize("policy", ["uniform", "even", "add"])
def test_forwards_are_those_that_the_networks_then_make(pair, files, preset, policy):
    recipe = Recipe(AMOUNT, policy, batch_size=2, engine=Engine(**ENGINES[preset], max_batch=3))
    plan = planned(pair, recipe)
    sequences = Sequences(*pair, files, recipe)
    made = [s.depths.values for s in sequences]
    assert sequences.encoder.forwards == len(files) * plan.encoding
    known = sum(cost.decoding_forwards(pair[1].diffusion, recipe.engine, d) for d in made)
    assert sequences.decoder.forwards == known <= len(files) * plan.bound
    assert plan.total == plan.encoding + plan.decoding
    if policy == "uniform":
        assert known == len(files) * plan.decoding and plan.bound == plan.decoding
    else:
        assert plan.decoding < plan.bound == AMOUNT * (recipe.engine.decode_steps or STEPS)


@pytest.mark.parametrize("engine", [Engine(), Engine(**ENGINES["fast"])])
def test_forwards_of_depths_of_which_some_are_clean_or_between_two_levels(pair, engine):
    depths, predict = [0, 1, 2, 17, 40, 40], Predictor(pair[1], engine)
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
    assert cost.flops(TINY) == 2 * multiplications


@pytest.mark.parametrize(
    "flags", [{"class_cond": True}, {"use_fp16": True}, {"use_new_attention_order": True}]
)
def test_flops_do_not_depend_on_how_a_network_is_stored(flags):
    assert cost.flops(TINY | flags) == cost.flops(TINY)


def test_a_network_that_no_memory_holds_is_counted():
    wide = TINY | {"num_channels": 2**17, "num_head_channels": 64}
    assert cost.flops(wide) > 1e14


@pytest.mark.parametrize("arrays", [{}, {"save_latents": True}, {"save_npy": False}])
def test_bytes_of_arrays_are_exact_and_of_pictures_near(pair, files, tmp_path, arrays):
    recipe = Recipe(AMOUNT, "uniform", engine=Engine(**ENGINES["draft"]))
    exporter = Exporter(tmp_path / "t", ("a", "b"), recipe, len(files), **arrays)
    sequences = Sequences(*pair, files, recipe)
    exporter.prepare([files.name(index) for index in range(len(files))], files.tile)
    for sequence in sequences:
        exporter.save(sequence)
    exporter.merge()
    sizes = {path: path.stat().st_size for path in (tmp_path / "t").rglob("*") if path.is_file()}
    of_arrays = sum(size for path, size in sizes.items() if path.suffix == ".npy")
    shape = AMOUNT, (3, 16, 16), len(files)
    assert cost.array_bytes(exporter.arrays, *shape) == of_arrays
    others = sum(sizes.values()) - of_arrays
    assert others / 2 < cost.picture_bytes(*shape) < 2 * others
