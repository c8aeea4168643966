"""The log of a run: its files, what further ranks write, and rows that will come again."""

import csv
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.cli import snapshot

from guided_diffusion import dist_util, logger
from guided_diffusion.runtime import input_files
from guided_diffusion.runtime.run_log import drop_later_rows, open_run_log


def test_the_log_of_a_run_is_text_csv_and_jsonl(tmp_path, capsys):
    open_run_log(tmp_path)
    logger.log("hello")
    logger.logkv("a", 1)
    logger.dumpkvs()
    logger.reset()
    assert [*snapshot(tmp_path)] == ["log.txt", "progress.csv", "progress.jsonl"]
    assert json.loads((tmp_path / "progress.jsonl").read_text()) == {"a": 1}
    with open(tmp_path / "progress.csv") as file:
        assert list(csv.reader(file)) == [["a"], ["1"]]
    assert capsys.readouterr().out.startswith(f"Logging to {tmp_path}\nhello\n")


@pytest.mark.parametrize(
    ("together", "files"), [(True, []), (False, ["log-rank001.txt", "progress-rank001.csv"])]
)
def test_a_further_rank_logs_to_files_of_its_own_or_not_at_all(
    tmp_path, monkeypatch, capsys, together, files
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("OPENAI_LOG_FORMAT", "stdout,log,csv")
    monkeypatch.setattr(dist_util, "rank", lambda: 1)
    open_run_log(tmp_path, together=together)
    logger.log("hello")
    logger.reset()
    assert [*snapshot(tmp_path)] == files and capsys.readouterr().out == ""


CSV = "loss,step\n"


@pytest.mark.parametrize("done", [0, 1, 2, 5])
def test_rows_of_later_steps_go_and_others_stay(tmp_path, done):
    rows = [f"0.5,{step}\n" for step in (1, 2, 3)]
    lines = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in (1, 2, 3)]
    note = '{"note": "no step"}\n'
    (tmp_path / "progress.csv").write_text(CSV + "".join(rows) + "0.5,4")  # cut short
    (tmp_path / "progress.jsonl").write_text(note + "".join(lines) + '{"step": 4')
    (tmp_path / "progress.json").write_text("".join(lines))
    drop_later_rows(tmp_path, done)
    assert (tmp_path / "progress.csv").read_text() == CSV + "".join(rows[:done])
    assert (tmp_path / "progress.jsonl").read_text() == note + "".join(lines[:done])
    assert (tmp_path / "progress.json").read_text() == "".join(lines[:done])


def test_where_there_is_no_log_none_is_made(tmp_path):
    drop_later_rows(tmp_path, 3)
    assert not list(tmp_path.iterdir())


@given(content=st.binary(max_size=60), suffix=st.sampled_from(["csv", "json", "jsonl"]))
def test_rows_that_cannot_be_read_stay(tmp_path_factory, content, suffix):
    assume(not input_files.pointer(content))  # that a file was not fetched is told instead
    folder = tmp_path_factory.mktemp("log")
    (folder / f"progress.{suffix}").write_bytes(content)
    drop_later_rows(folder, 10**9)
    whole = b"".join(line for line in content.splitlines(True) if line.endswith(b"\n"))
    assert (folder / f"progress.{suffix}").read_bytes() == whole
