"""Checkpoints that changed after they were written, and files that only claim to be some."""

import errno
import hashlib
import io
import os
import signal
import subprocess
import zipfile

import pytest
import torch
from support import children

from guided_diffusion.errors import DamagedFileError, UserError
from guided_diffusion.models import checkpoint, integrity, loading
from guided_diffusion.models.archive_layout import is_as_written
from guided_diffusion.runtime import faults


@pytest.fixture
def path(tmp_path):
    """A small checkpoint with its digest."""
    path = tmp_path / "model000001.pt"
    checkpoint.save_state({"a": torch.arange(40.0), "b.c": torch.ones(3, 3)}, path)
    return path


def flipped(content, place, mask=1):
    return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def newer(path):
    """Make a file newer than its digest."""
    stamp = integrity.digest_file(path).stat().st_mtime_ns + 10**9
    os.utime(path, ns=(stamp, stamp))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_digest_lies_beside_every_file_as_sha256sum_writes_it(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    checkpoint.save_state({"a": torch.ones(3)}, path)
    text = (tmp_path / f"weights{suffix}.sha256").read_text()
    assert text == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  weights{suffix}\n"
    checked = subprocess.run(
        ["sha256sum", "-c", f"{path.name}.sha256"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.stdout == f"weights{suffix}: OK\n"
    checkpoint.save_state({"a": torch.zeros(3)}, path)
    assert not checkpoint.load_state(path)["a"].any()


@pytest.mark.parametrize("touched", [False, True])
def test_any_flipped_byte_is_noticed_with_a_digest(path, touched):
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, place))
        if touched:
            newer(path)
        with pytest.raises(DamagedFileError, match=r"model000001\.pt: "):
            checkpoint.load_state(path)


def test_a_flipped_byte_of_the_numbers_is_noticed_without_a_digest(path):
    integrity.digest_file(path).unlink()
    whole = path.read_bytes()
    start = whole.index(torch.arange(40.0).numpy().tobytes())
    for place in range(start, start + 160, 9):
        path.write_bytes(flipped(whole, place, 128))
        with pytest.raises(DamagedFileError, match="the checksum of 'archive/data/0' is wrong"):
            checkpoint.load_state(path)


@pytest.mark.parametrize("save", ["safetensors", "old", "unchecked"])
def test_a_format_without_checksums_is_held_to_its_digest(tmp_path, save):
    path = tmp_path / f"x.{'safetensors' if save == 'safetensors' else 'pt'}"
    checkpoint.save_state({"a": torch.ones(50)}, path)
    if save == "unchecked" and not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch cannot leave checksums out")
    if save == "unchecked":
        torch.serialization.set_crc32_options(False)
    if save != "safetensors":
        torch.save({"a": torch.ones(50)}, path, _use_new_zipfile_serialization=save != "old")
        integrity.write_digest(path, checkpoint.digest(path))
    if save == "unchecked":
        torch.serialization.set_crc32_options(True)
    assert checkpoint.load_state(path)["a"].sum() == 50
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, whole.index(torch.ones(50).numpy().tobytes()) + 20))
    newer(path)
    with pytest.raises(DamagedFileError, match=r"its SHA-256 is .* delete x\..*\.sha256 if you"):
        checkpoint.load_state(path)


def test_a_checkpoint_that_another_program_replaced_is_taken_with_a_line(path, recorder):
    torch.save({"a": torch.zeros(2)}, path)
    newer(path)
    assert checkpoint.load_state(path)["a"].tolist() == [0, 0]
    assert "was replaced after model000001.pt.sha256 was written" in recorder.text


@pytest.mark.parametrize("point", ["write.replace", "write.open"])
def test_a_failure_between_a_checkpoint_and_its_digest_leaves_both_readable(path, point):
    for visit in (1, 2):
        faults.plan(faults.Fault(point, visit, "EIO"))
        try:
            with pytest.raises(OSError):
                checkpoint.save_state({"a": torch.zeros(2)}, path)
        finally:
            faults.plan(None)
        assert checkpoint.load_state(path)["a"].numel() in (2, 40)


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 64 + "  other.pt\n", "0" * 63 + "  model000001.pt\n", "\0" * 999]
)
def test_a_digest_of_other_form_is_named_and_is_not_the_checkpoints_fault(path, text):
    integrity.digest_file(path).write_text(text)
    with pytest.raises(UserError, match=r"pt\.sha256: expected the line that `sha256sum") as error:
        checkpoint.load_state(path)
    assert not isinstance(error.value, DamagedFileError)


@pytest.mark.parametrize("form", ["{} *model000001.pt", "{}  /some/where/model000001.pt", "{}"])
def test_digests_by_other_programs_are_read(path, form):
    found = checkpoint.digest(path)
    integrity.digest_file(path).write_text(form.format(found.upper()) + "\r\n".strip("\r"))
    checkpoint.load_state(path)


def archive(entries, compress=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compress) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"PK\3\4", "it is cut off, or damaged at its end"),
        (archive({"a": b"x"}), "a file that cannot be read"),
        (archive({"a/data.pkl": bytes(10**6)}, zipfile.ZIP_DEFLATED), "bytes claim to hold 1,000,"),
        (b"PK\3\4" + bytes(10**5), "it is cut off, or damaged at its end"),
    ],
)
def test_what_is_no_whole_archive_is_told_shortly(tmp_path, content, found):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="bad.pt: expected a whole checkpoint") as error:
        checkpoint.load_state(path)
    assert found in str(error.value) and len(str(error.value)) < len(str(path)) + 230
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_a_folder_a_pipe_and_a_device_are_no_checkpoints_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for path, kind in ((tmp_path / "pipe.pt", "a named pipe"), ("/dev/zero", "a device")):
        with pytest.raises(UserError, match=f"expected a file, got {kind}"):
            checkpoint.load_state(path)
    (tmp_path / "run.pt").mkdir()
    with pytest.raises(UserError, match="expected a file, got a folder"):
        checkpoint.load_state(tmp_path / "run.pt")


@pytest.mark.parametrize("kind", ["EACCES", "EIO", "MemoryError"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(path, kind):
    faults.plan(faults.Fault("read.file", 2, kind))  # the first visit is for the digest
    try:
        with pytest.raises(UserError, match=r"model000001\.pt: cannot be read \(") as error:
            checkpoint.load_state(path)
    finally:
        faults.plan(None)
    assert not isinstance(error.value, DamagedFileError)


def test_memory_that_runs_out_while_tensors_are_made_is_not_damage(path, monkeypatch):
    def none_left(*args, **keywords):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(loading.th, "load", none_left)
    with pytest.raises(UserError, match="not enough memory") as error:
        checkpoint.load_state(path)
    assert not isinstance(error.value, DamagedFileError)


def test_an_archive_of_torch_is_known_byte_for_byte(path):
    content = path.read_bytes()
    assert is_as_written(content)
    assert not is_as_written(content + b"\0")


ODD = {
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a quantised tensor": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    r"a tensor without values \(device meta\)": lambda: torch.ones(3, device="meta"),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "a complex tensor": lambda: torch.ones(3, dtype=torch.complex64),
    "a tensor that repeats": lambda: torch.ones(1).expand(10**12),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_other_than_plain_tensors_are_named_wherever_they_are(tmp_path, kind):
    path = tmp_path / "odd.pt"
    for content, place in (
        ({"a": torch.ones(1), "w": ODD[kind]()}, "'w'"),
        (
            {"state": {3: {"exp_avg": ODD[kind]()}}, "param_groups": []},
            r"'state'\[3\]\['exp_avg'\]",
        ),
    ):
        torch.save(content, path)
        with pytest.raises(
            UserError, match=f"odd.pt: expected plain tensors, got {kind}.* at {place}"
        ):
            checkpoint.load_file(path)


def test_a_write_that_fails_is_told_as_the_system_tells_it(tmp_path):
    def save():
        resource = pytest.importorskip("resource")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            checkpoint.save_state({"a": torch.ones(5000)}, tmp_path / "model000001.pt")
        except OSError as error:
            return error.errno, error.filename

    found, _, problem = children.ask(save)
    assert found == (errno.EFBIG, str(tmp_path / "model000001.pt")), problem
    assert not list(tmp_path.iterdir())
