"""Files that are not what their names promise: pipes, devices, links to nothing, pointers."""

import os

import pytest
import torch
from PIL import Image
from support.cli import SEQUENCES, call, train_two_runs

from guided_diffusion.data import sealed_pictures
from guided_diffusion.data.image_formats import open_images
from guided_diffusion.errors import UserError
from guided_diffusion.generation import finished_images, manifest
from guided_diffusion.models import checkpoint
from guided_diffusion.runtime import atomic_files, run_folder
from guided_diffusion.sampling.new_images import is_whole
from guided_diffusion.training import resume
from guided_diffusion.translation.class_translation import read_label_map

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
ANNEX = b"/annex/objects/SHA256E-s9--ab\n"
ODD = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to("../.git/annex/objects/x"),
}
# What reads a file that others may have made, and may refuse it.
READERS = {
    "args.json": run_folder.read_args,
    "manifest.csv": lambda path: list(manifest.read(path, ["a"])),
    "model000001.pt": checkpoint.load_state,
    "map.txt": read_label_map,
}
POINTED = READERS | {"small.npz": open_images}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, name, kind):
    ODD[kind](tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: (expected a file|a link to .*annex get)"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_not_whole(tmp_path, kind):
    ODD[kind](tmp_path / "00.png")
    assert not sealed_pictures.is_whole(tmp_path / "00.png", {}, plain=True)
    ODD[kind](tmp_path / "samples_1x2x2x3.npz")
    assert not is_whole(tmp_path / "samples_1x2x2x3.npz", (1, 2, 2, 3))


@pytest.mark.parametrize("kind", ODD)
def test_a_folder_of_images_may_hold_something_odd_as_its_record(tmp_path, kind):
    ODD[kind](tmp_path / "args.json")
    Image.new("RGB", (2, 2)).save(tmp_path / "tile.png")
    images, steps = finished_images.open_results(str(tmp_path), 0, ())
    assert (len(images), steps) == (1, "")


def test_only_plain_files_with_a_temporary_name_are_removed(tmp_path):
    for kind, make in ODD.items():
        make(tmp_path / f".{kind}.0123abcd.guided-diffusion.partial")
        atomic_files.remove_partial(tmp_path / f".{kind}.0123abcd.guided-diffusion.partial")
    assert len(os.listdir(tmp_path)) == len(ODD)


@pytest.mark.parametrize(("content", "tool"), [(LFS, "git lfs pull"), (ANNEX, "git annex get")])
@pytest.mark.parametrize("name", POINTED)
def test_pointers_say_how_their_data_is_fetched(tmp_path, name, content, tool):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: expected .*, got .*: {tool}"):
        POINTED[name](tmp_path / name)


@pytest.mark.parametrize("kind", ["link", "pointer"])
@pytest.mark.parametrize("name", ["model000002.pt", "opt000002.pt", "ema_0.9_000002.pt"])
def test_no_older_checkpoint_takes_the_place_of_one_that_is_not_fetched(tmp_path, name, kind):
    for step in (1, 2):
        for file in (f"model{step:06d}.pt", f"opt{step:06d}.pt", f"ema_0.9_{step:06d}.pt"):
            checkpoint.save_state({"a": torch.ones(2)}, tmp_path / file)
    path = tmp_path / name
    path.unlink()
    ODD["link"](path) if kind == "link" else path.write_bytes(LFS)
    with pytest.raises(UserError, match=f"{name}: .*fetch the data"):
        resume.newest_checkpoint(tmp_path)


def test_the_digest_of_a_file_may_come_from_windows(tmp_path):
    path = tmp_path / "model000001.pt"
    checkpoint.save_state({"a": torch.ones(2)}, path)
    beside = tmp_path / "model000001.pt.sha256"
    beside.write_bytes(beside.read_bytes().replace(b"\n", b"\r\n"))
    assert checkpoint.load_state(path)["a"].all()


def test_weights_too_large_for_the_network_are_not_finite(tmp_path):
    own = {"a": torch.zeros(2)}
    with pytest.raises(UserError, match="its numbers are not finite, first at 'a'"):
        large = {"a": torch.full((2,), 1e39, dtype=torch.float64)}
        checkpoint.refuse_unlike(own, large, tmp_path / "x.pt", [])


@pytest.mark.parametrize("kind", ODD)
def test_a_generation_goes_on_where_a_picture_is_no_file_any_more(tmp_path_factory, kind, runs):
    place = tmp_path_factory.mktemp(kind)
    assert call(SEQUENCES, *runs.sequences, "--out_dir", place / "out").code == 0
    picture = next((place / "out").rglob("images/00001/01.png"))
    before = picture.read_bytes()
    picture.unlink()
    ODD[kind](picture)
    result = call(SEQUENCES, *runs.sequences, "--out_dir", place / "out")
    if result.code == 0:
        assert picture.read_bytes() == before
    else:
        assert result.code == 2 and f"{picture}: " in result.last


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return train_two_runs(tmp_path_factory.mktemp("runs"))
