"""Records and logs in a run folder that are not as a run left them: one line, or no matter."""

import json
import math
import os

import hypothesis
import hypothesis.strategies as st
import pytest

from guided_diffusion.errors import UserError
from guided_diffusion.runtime import input_files, logger
from guided_diffusion.runtime.run_folder import RunFolder, read_args
from guided_diffusion.runtime.run_log import drop_later_rows

ASKED = {
    "lr": 1e-4,
    "class_cond": False,
    "out_dir": "runs/a",
    "source_model": "runs/b",
    "source_model.sha256": "0" * 64,
    "stages.names": "",
    "batch_size x processes": 2,
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@hypothesis.settings(max_examples=80)
@hypothesis.given(st.dictionaries(st.sampled_from(sorted(ASKED)), VALUES), VALUES)
def test_a_record_of_any_values_is_the_same_run_or_one_line(tmp_path_factory, values, script):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "args.json").write_text(json.dumps({"script": script, "args": values}))
    try:
        RunFolder(folder, "image_train", ASKED).refuse_other_run()
    except UserError as error:
        assert len(error.report) < 3000


@hypothesis.settings(max_examples=80)
@hypothesis.given(st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode()))
def test_a_record_of_any_bytes_is_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "args.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_args(path)["args"], dict)
    except UserError as error:
        assert "args.json: expected " in str(error)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "got JSONDecodeError"),
        (b"[" * 10**5, "got RecursionError"),
        (b"1" * 10**4, "got ValueError"),
        ("{}".encode("utf-16"), "got UnicodeDecodeError"),
        (b"\x89PNG\r\n", "got UnicodeDecodeError"),
        (b"[]", "got a list"),
        (b"null", "got None"),
        (b'{"args": []}', "got an object of 'args'"),
        (b'{"a": {}, "b": 1}', "got an object of 'a', 'b'"),
        (b" " * (input_files.LARGEST_JSON + 1), "expected at most 16,777,216 bytes"),
        (b'{"args": {}, "script": ["image_train"]}', "expected text as its 'script', got a list"),
    ],
)
def test_what_is_no_record_is_told_with_what_it_is(tmp_path, content, found):
    (tmp_path / "args.json").write_bytes(content)
    with pytest.raises(UserError, match="args.json: expected") as error:
        read_args(tmp_path / "args.json")
    assert found in str(error.value)


def test_a_mark_that_an_editor_put_in_front_does_not_matter(tmp_path):
    (tmp_path / "args.json").write_bytes(b"\xef\xbb\xbf" + b'{"args": {"lr": 1}}')
    assert read_args(tmp_path / "args.json") == {"args": {"lr": 1}}


def test_a_record_that_cannot_be_read_is_no_missing_record(tmp_path, monkeypatch):
    def forbidden(path, *mode):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "args.json").write_text('{"args": {}}')
    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(UserError, match="args.json: cannot be read .Permission denied"):
        read_args(tmp_path / "args.json")


@pytest.mark.parametrize("name", ["args.json", "progress.csv", "progress.jsonl", "log.txt"])
@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_pipe_a_folder_or_a_device_in_the_place_of_a_file_is_told(tmp_path, name, kind):
    kind(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: expected a file, got a "):
        read_args(tmp_path / "args.json")
        drop_later_rows(tmp_path, 3)
        logger.configure(str(tmp_path), ["csv", "jsonl", "log"])


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(st.binary(max_size=30) | VALUES.map(lambda v: json.dumps(v).encode())))
def test_progress_files_of_any_shape_lose_no_row_but_later_ones(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    content = b"".join(row + b"\n" for row in rows)
    for name in ("progress.csv", "progress.jsonl"):
        (folder / name).write_bytes(content)
    drop_later_rows(folder, 10**400)
    assert (folder / "progress.csv").read_bytes() == content
    drop_later_rows(folder, math.inf)
    try:
        logger.configure(str(folder), ["csv", "jsonl"])
        logger.logkv("step", 3)
        logger.dumpkvs()
        logger.reset()
    except UserError as error:
        assert "progress.csv: expected the table of an earlier run" in str(error)
        assert (folder / "progress.csv").read_bytes().startswith(content)


@pytest.mark.parametrize(
    "row", [b'{"step": 1' + b"0" * 5000 + b"}", b"[" * 10**5, b'{"step": 1e999}', b'{"step": []}']
)
def test_a_row_whose_step_is_no_step_stays_unless_it_is_later(tmp_path, row):
    (tmp_path / "progress.jsonl").write_bytes(row + b"\n")
    drop_later_rows(tmp_path, 5)
    assert (tmp_path / "progress.jsonl").read_bytes() == (b"" if b"1e999" in row else row + b"\n")


def test_a_table_with_a_huge_field_is_told(tmp_path):
    (tmp_path / "progress.csv").write_text("step,loss\n1," + "9" * 200_000 + "\n")
    with pytest.raises(UserError, match=r"got a file that is none \(Error\); move it away"):
        logger.configure(str(tmp_path), ["csv"])
