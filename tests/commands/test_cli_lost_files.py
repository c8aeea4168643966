"""Files of a generation that vanish or change, during the run and after it, are made again."""

import shutil

import numpy as np
import pytest
from support.cli import SEQUENCES, Killed, call, read_csv, snapshot, succeed

from guided_diffusion.generation import export
from guided_diffusion.runtime.run_folder import read_args

FOLDER = "translation_0_1"
ARRAYS = ("source.npy", "target.npy", "diffway.npy", "latent.npy")


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """A generation run of three sequences with everything saved; to be left as it is."""
    return make(runs, tmp_path_factory.mktemp("made") / "run")


def make(runs, out_dir, *flags):
    succeed(SEQUENCES, *runs.sequences, "--save_latents", "True", "--out_dir", out_dir, *flags)
    return out_dir / FOLDER


def differing(one, other):
    """The names of files that two folders do not share."""
    one, other = snapshot(one), snapshot(other)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@pytest.fixture
def after_saving(monkeypatch):
    """Let something happen to the folder each time after a sequence was saved."""
    save = export.Exporter.save

    def plan(happens, times=1):
        left = [times]

        def saving(self, sequence):
            save(self, sequence)
            if sequence.index == 1 and left[0]:
                left[0] -= 1
                happens(self.folder)

        monkeypatch.setattr(export.Exporter, "save", saving)

    return plan


def zeros(name):
    return lambda folder: np.lib.format.open_memmap(folder / f"{name}.partial", "r+").fill(0)


LOSSES = {
    "a picture": lambda folder: (folder / "images/00000/02.png").unlink(),
    "a source tile": lambda folder: (folder / "images/00001/00.png").unlink(),
    "a cut picture": lambda folder: (folder / "images/00000/02.png").write_bytes(b"\x89PNG"),
    "a folder of pictures": lambda folder: shutil.rmtree(folder / "images/00000"),
    "all pictures": lambda folder: shutil.rmtree(folder / "images"),
    "the part of the manifest": lambda folder: (folder / "manifest.part000.csv").unlink(),
    "the manifest": lambda folder: (folder / "manifest.csv").unlink(),
    "the images of the array": lambda folder: (folder / "target.npy.partial").unlink(),
    "the latents": lambda folder: (folder / "latent.npy.partial").unlink(),
    "the depths in the array": zeros("diffway.npy"),
    "the numbers of the latents": zeros("latent.npy"),
    "the folder": shutil.rmtree,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_lost_during_a_run_is_there_in_the_end(runs, made, tmp_path, after_saving, loss):
    after_saving(LOSSES[loss])
    assert differing(make(runs, tmp_path), made) == set()


def test_a_log_says_that_files_were_lost(runs, tmp_path, after_saving):
    after_saving(LOSSES["a picture"])
    make(runs, tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert "files of 1 results vanished or changed during the run" in log


def test_what_is_lost_again_and_again_ends_in_exit_code_3_with_the_list(
    runs, tmp_path, after_saving
):
    after_saving(LOSSES["a folder of pictures"], times=100)
    after_saving(lambda folder: (folder / "images/00001/03.png").unlink(), times=100)
    result = call(SEQUENCES, *runs.sequences, "--out_dir", tmp_path)
    assert result.code == 3 and result.err.count("\n") == 1
    assert f"error: {tmp_path}: incomplete" in result.err
    assert f"{FOLDER}/images/00001;" in result.err
    assert {row["sequence"] for row in read_csv(tmp_path / FOLDER / "manifest.csv")} == {
        "00000",
        "00002",
    }
    assert not list((tmp_path / FOLDER).glob("*.npy"))


def test_the_record_is_there_in_the_end(runs, tmp_path, after_saving):
    after_saving(lambda folder: (folder.parent / "args.json").unlink())
    make(runs, tmp_path)
    assert read_args(tmp_path / "args.json")["args"]["amount"] == 3
    refused = call(SEQUENCES, *runs.sequences, "--amount", 2, "--out_dir", tmp_path)
    assert refused.code == 2 and "--amount was 3, is 2" in refused.last


def test_a_killed_run_has_no_array_under_its_final_name(runs, made, tmp_path, after_saving):
    def kill(folder):
        raise Killed

    after_saving(kill)
    with pytest.raises(Killed):
        make(runs, tmp_path)
    names = {path.name for path in (tmp_path / FOLDER).glob("*.npy*")}
    assert names == {f"{name}.partial" for name in ARRAYS}
    assert differing(make(runs, tmp_path), made) == set()


def test_an_older_run_that_stopped_goes_on(runs, made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "run")
    folder = tmp_path / "run" / FOLDER
    shutil.rmtree(folder / "images/00001")
    rows = (folder / "manifest.csv").read_text().splitlines(keepends=True)
    (folder / "manifest.csv").unlink()
    kept = [row for row in rows if ",00001," not in row]
    (folder / "manifest.part000.csv").write_text("".join(kept))
    for name in ARRAYS:  # older versions wrote entries of zeros under the final names
        np.lib.format.open_memmap(folder / name, "r+")[1] = 0
    for path in folder.glob("images/*/*.png"):
        content = path.read_bytes()
        path.write_bytes(content[:-38] + content[-12:])  # and pictures without a seal
    assert differing(make(runs, tmp_path / "run"), made) == {
        f"images/{sequence:05d}/{step:02d}.png" for sequence in (0, 2) for step in range(4)
    }


@pytest.mark.parametrize(
    "name", ["images/00001/02.png", "images/00002/00.png", "contact_sheet.png"]
)
@pytest.mark.parametrize("content", [b"", b"text", "cut", "other"])
def test_a_picture_that_is_damaged_later_is_made_again(runs, made, tmp_path, name, content):
    shutil.copytree(made.parent, tmp_path / "run")
    path = tmp_path / "run" / FOLDER / name
    other = (
        path.with_name("01.png") if name != "contact_sheet.png" else made / "images/00000/00.png"
    )
    whole = path.read_bytes()
    changed = {"cut": whole[:-20], "other": other.read_bytes()}
    path.write_bytes(changed.get(content, content))
    assert differing(make(runs, tmp_path / "run"), made) == set()


def test_damaged_rows_are_dropped_and_their_sequences_made_again(runs, made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "run")
    path = tmp_path / "run" / FOLDER / "manifest.csv"
    rows = path.read_bytes().splitlines(keepends=True)
    rows[2] = b"\0\xff" * 100_000 + rows[2]
    rows[6] = rows[6].replace(b"00001,", b"one,")
    path.write_bytes(b"".join(rows)[:-9])
    assert differing(make(runs, tmp_path / "run"), made) == set()


@pytest.mark.parametrize("content", [b"file_name,x\n", b"\xff\xfe\n", b"a\0b,c\n1,2\n", b"1,2,3\n"])
def test_another_file_in_place_of_the_manifest_is_refused(runs, made, tmp_path, content):
    shutil.copytree(made.parent, tmp_path / "run")
    path = tmp_path / "run" / FOLDER / "manifest.csv"
    path.write_bytes(content)
    result = call(SEQUENCES, *runs.sequences, "--save_latents", 1, "--out_dir", tmp_path / "run")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "manifest.csv: expected the columns file_name,sequence," in result.last
    assert path.read_bytes() == content
