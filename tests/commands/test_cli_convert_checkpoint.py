"""`convert_checkpoint.py` as a user runs it: what it writes draws the images of its input."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from support.cli import call, grey_levels_apart, snapshot, succeed

from guided_diffusion.models.checkpoint import load_state

CONVERT = "convert_checkpoint"


def images_of(model, out_dir):
    words = "--num_samples 2 --timestep_respacing 4 --use_ddim True --device cpu".split()
    succeed("image_sample", "--model_path", model, *words, "--out_dir", out_dir)
    with np.load(out_dir / "samples_2x16x16x3.npz", allow_pickle=False) as file:
        return file["arr_0"]


@pytest.fixture
def weights(runs):
    return runs.source / "ema_0.5_000008.pt"


@pytest.fixture
def bare(weights, tmp_path):
    """A checkpoint that nothing is known of."""
    (tmp_path / "bare").mkdir()
    return shutil.copy(weights, tmp_path / "bare" / "model.pt")


def equal(first, second):
    first, second = load_state(first), load_state(second)
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_in_the_other_order_as_safetensors_draws_the_same_images(runs, weights, tmp_path):
    output = tmp_path / "new" / "weights.safetensors"
    result = succeed(
        CONVERT, "--model_path", runs.source, "--output", output, "--attention_order", "new"
    )
    assert f"saved {output} and the args.json beside it" in result.out
    files = {"weights.safetensors", "weights.safetensors.sha256", "args.json"}
    assert {path.name for path in output.parent.iterdir()} == files
    before, after = (
        json.loads((place / "args.json").read_text()) for place in (runs.source, output.parent)
    )
    assert after["args"] == before["args"] | {"use_new_attention_order": True}
    assert not equal(output, weights)
    expected = images_of(runs.source, tmp_path / "before")
    assert grey_levels_apart(images_of(output, tmp_path / "after"), expected) <= 1
    back = tmp_path / "legacy" / "weights.pt"
    succeed(CONVERT, "--model_path", output, "--output", back, "--attention_order", "legacy")
    assert equal(back, weights)
    assert json.loads((back.parent / "args.json").read_text()) == before


def test_asking_for_the_order_that_is_there_changes_nothing(runs, weights, tmp_path):
    words = ["--model_path", weights, "--attention_order", "legacy"]
    succeed(CONVERT, *words, "--output", tmp_path / "same.pt")
    assert equal(tmp_path / "same.pt", weights)


def test_a_checkpoint_alone_is_rewritten_by_its_flags(weights, bare, tmp_path):
    new = ["--attention_order", "new"]
    succeed(CONVERT, "--model_path", weights, "--output", tmp_path / "with" / "record.pt", *new)
    # Every block of the network attends over 64 channels.
    for flag, value in (("--num_heads", 2), ("--num_head_channels", 32)):
        output = tmp_path / "without" / f"{flag[2:]}.pt"
        told = ["--model_path", bare, "--input_order", "legacy", flag, value]
        succeed(CONVERT, *told, "--output", output, *new)
        assert equal(output, tmp_path / "with" / "record.pt")
    assert not (tmp_path / "without" / "args.json").exists()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_format_load_and_draw_nearly_the_same(runs, tmp_path, name, suffix):
    output = tmp_path / "half" / f"half{suffix}"
    succeed(CONVERT, "--model_path", runs.source, "--output", output, "--dtype", name)
    assert {value.dtype for value in load_state(output).values()} == {getattr(torch, name)}
    expected = images_of(runs.source, tmp_path / "before")
    found = images_of(output, tmp_path / "after")
    assert np.abs(found.astype(int) - expected).mean() < 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model_path=", "--model_path: expected a checkpoint or a training run folder, got none"),
        ("--model_path {place}/no.pt", "{place}/no.pt: expected a checkpoint or a training run"),
        ("--output {place}/x.bin", "--output: expected a file name that ends in .pt or .safet"),
        ("--output=", "--output: expected a file name that ends in .pt or .safetensors, got ''"),
        ("--output {bare}", "--output: expected another file than the input, got {bare}"),
        ("--output {run}/x.pt", "--output: {run}/args.json describes another network"),
        ("--output /proc/no/x.pt", "--output: expected a folder to write to, got /proc/no (No"),
        ("--attention_order old", "--attention_order: invalid choice: 'old'"),
        ("--attention_order new", "--input_order: expected it, since {bare} has no args.json"),
        ("--attention_order new --input_order legacy", "--num_heads or --num_head_channels: exp"),
        (
            "--attention_order new --input_order legacy --num_heads 3",
            "--num_heads: expected a divisor of the block's 64 channels, got 3 (",
        ),
        ("--num_heads 0", "--num_heads: expected a whole number of at least 1 or -1, got '0'"),
        ("--dtype float8", "--dtype: invalid choice: 'float8'"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(runs, bare, tmp_path, words, message):
    names = {"place": tmp_path, "bare": bare, "run": runs.source}
    before = snapshot(tmp_path), snapshot(runs.source)
    given = [word.format(**names) for word in words.split()]
    base = ["--model_path", bare, "--output", tmp_path / "out" / "x.pt"]
    result = call(CONVERT, *base, *given)
    assert result.code == 2 and message.format(**names) in result.last
    assert (snapshot(tmp_path), snapshot(runs.source)) == before
    assert not (tmp_path / "out").exists()


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    words = ["--model_path", tmp_path / "cut.safetensors", "--output", tmp_path / "x.pt"]
    result = call(CONVERT, *words)
    assert result.code == 2 and "cut.safetensors: expected a whole checkpoint" in result.last


def test_without_safetensors_the_extra_is_named(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    words = ["--model_path", weights, "--output", tmp_path / "x.safetensors"]
    result = call(CONVERT, *words)
    assert result.code == 2 and "guided-diffusion-add[safetensors]" in result.last
    assert not (tmp_path / "x.safetensors").exists()
