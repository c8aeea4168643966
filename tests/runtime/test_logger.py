"""The logger: upstream's interface, rows in every format, appended by a second run."""

import csv
import inspect
import json
import os
import re
import sys
import types

import numpy as np
import pytest
import torch

from guided_diffusion import logger
from guided_diffusion.errors import UserError
from guided_diffusion.logger import Logger

# name -> upstream's parameters
FUNCTIONS = {
    "make_output_format": "format ev_dir log_suffix",
    "logkv": "key val",
    "logkv_mean": "key val",
    "logkvs": "d",
    "dumpkvs": "",
    "getkvs": "",
    "log": "args level",
    "debug": "args",
    "info": "args",
    "warn": "args",
    "error": "args",
    "set_level": "level",
    "set_comm": "comm",
    "get_dir": "",
    "record_tabular": "key val",
    "dump_tabular": "",
    "profile_kv": "scopename",
    "profile": "n",
    "get_current": "",
    "get_rank_without_mpi_import": "",
    "reset": "",
    "mpi_weighted_mean": "comm local_name2valcount",
    "configure": "dir format_strs comm log_suffix",
    "scoped_configure": "dir format_strs comm",
    "KVWriter": "",
    "SeqWriter": "",
    "HumanOutputFormat": "filename_or_file",
    "JSONOutputFormat": "filename",
    "CSVOutputFormat": "filename",
    "TensorBoardOutputFormat": "dir",
    "Logger": "dir output_formats comm",
}
METHODS = {
    "Logger": "logkv logkv_mean dumpkvs log set_level set_comm get_dir close",
    "KVWriter": "writekvs",
    "SeqWriter": "writeseq",
    "HumanOutputFormat": "writekvs writeseq close",
    "JSONOutputFormat": "writekvs close",
    "CSVOutputFormat": "writekvs close",
    "TensorBoardOutputFormat": "writekvs close",
}


def dump(**row):
    logger.logkvs(row)
    return logger.dumpkvs()


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "parameters"), FUNCTIONS.items())
def test_upstreams_names_take_upstreams_parameters(name, parameters):
    found = list(inspect.signature(getattr(logger, name)).parameters)
    assert found[: len(parameters.split())] == parameters.split()


@pytest.mark.parametrize(("name", "methods"), METHODS.items())
def test_upstreams_classes_have_upstreams_methods(name, methods):
    assert all(callable(getattr(getattr(logger, name), method)) for method in methods.split())


def test_levels_are_upstreams():
    levels = [logger.DEBUG, logger.INFO, logger.WARN, logger.ERROR, logger.DISABLED]
    assert levels == [10, 20, 30, 40, 50]


def test_csv_columns_grow_with_new_keys(tmp_path):
    with logger.scoped_configure(str(tmp_path), ["csv"]):
        dump(a=1)
        dump(b=2.5, a=3)
        dump(c="x, y")
    assert table(tmp_path / "progress.csv") == [
        {"a": "1", "b": "", "c": ""},
        {"a": "3", "b": "2.5", "c": ""},
        {"a": "", "b": "", "c": "x, y"},
    ]


def test_csv_of_a_second_run_goes_on_and_grows(tmp_path):
    for row in ({"a": 1, "b": 2}, {"b": 3, "a": 4}, {"c": 5, "b": 6}):
        with logger.scoped_configure(str(tmp_path), ["csv"]):
            dump(**row)
    assert table(tmp_path / "progress.csv") == [
        {"a": "1", "b": "2", "c": ""},
        {"a": "4", "b": "3", "c": ""},
        {"a": "", "b": "6", "c": "5"},
    ]


def test_a_csv_that_is_killed_while_it_grows_keeps_its_rows(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with logger.scoped_configure(str(tmp_path), ["csv"]):
        dump(a=1)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", killed)
            dump(b=2)
        assert table(tmp_path / "progress.csv") == [{"a": "1"}]
    (partial,) = {path.name for path in tmp_path.iterdir()} - {"progress.csv"}
    assert partial.startswith(".") and partial.endswith(".partial")  # as `run.claim` removes


def test_a_csv_grows_where_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with logger.scoped_configure("logs", ["csv"]):
        dump(a=1)
        monkeypatch.chdir("/")
        dump(b=2)
    assert table(tmp_path / "logs" / "progress.csv") == [{"a": "1", "b": ""}, {"a": "", "b": "2"}]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["progress.csv"]


@pytest.mark.parametrize("error", [UserError, ValueError])
def test_an_unknown_format_is_a_user_error_that_names_the_variable(tmp_path, monkeypatch, error):
    monkeypatch.setenv("OPENAI_LOG_FORMAT", "stdout,cvs")
    with pytest.raises(error, match="OPENAI_LOG_FORMAT.*: expected .*, csv, .* got 'cvs'"):
        logger.configure(str(tmp_path))


@pytest.mark.parametrize("format", ["csv", "jsonl", "json"])
def test_a_row_after_one_that_was_cut_off_stands_alone(tmp_path, format):
    path = tmp_path / f"progress.{format}"
    for value in (1, 2):
        with logger.scoped_configure(str(tmp_path), [format]):
            dump(a=value, b="long \u00e9")
        path.write_bytes(path.read_bytes().rstrip()[:-1])  # the second byte of \u00e9 goes too
    with logger.scoped_configure(str(tmp_path), [format]):
        dump(a=3, b="c")
    last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-1]
    assert last == ("3,c" if format == "csv" else '{"a": 3, "b": "c"}')


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_json_has_one_plain_object_per_row(tmp_path, format):
    with logger.scoped_configure(str(tmp_path), [format]):
        dump(a=np.float32(0.5), b=torch.tensor(2), c="x")
        dump(a=1)
    lines = (tmp_path / f"progress.{format}").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 0.5, "b": 2, "c": "x"}, {"a": 1}]


def test_text_log_has_aligned_tables_and_lines(tmp_path):
    with logger.scoped_configure(str(tmp_path), ["log"]):
        logger.log("hello", 3)
        dump(loss=0.123456, name="n" * 60)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[:2] == [f"Logging to {tmp_path}", "hello 3"]
    assert lines[3].startswith("| loss | 0.1235 ")
    assert lines[4].startswith("| name | nnn") and "..." in lines[4]
    assert len({len(line) for line in lines[2:]}) == 1


def test_rows_and_lines_go_to_stdout(tmp_path, capsys):
    with logger.scoped_configure(str(tmp_path), ["stdout"]):
        logger.warn("careful")
        dump(a=1)
    out = capsys.readouterr().out
    assert out.startswith(f"Logging to {tmp_path}\ncareful\n") and "| a | 1 |" in out


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(ValueError, match="'xml'"):
        logger.make_output_format("xml", str(tmp_path))


def test_a_mean_is_that_of_its_values_since_the_last_dump(recorder):
    for value in (1.0, 2.0, 6.0):
        logger.logkv_mean("a", value)
    logger.logkv("b", 1)
    logger.logkv("b", 2)
    assert logger.getkvs() == {"a": pytest.approx(3.0), "b": 2}
    assert logger.dumpkvs() == {"a": pytest.approx(3.0), "b": 2}
    logger.logkv_mean("a", 5.0)
    assert logger.dumpkvs() == {"a": 5.0}
    assert [row["a"] for row in recorder.rows] == pytest.approx([3.0, 5.0])


def test_an_empty_row_is_not_written(recorder):
    assert logger.dumpkvs() == {}
    assert recorder.rows == []


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (logger.DEBUG, ["debug", "log", "info", "warn", "error"]),
        (logger.INFO, ["log", "info", "warn", "error"]),
        (logger.ERROR, ["error"]),
        (logger.DISABLED, []),
    ],
)
def test_a_level_hides_the_lines_below_it(recorder, level, shown):
    logger.set_level(level)
    for name in ("debug", "log", "info", "warn", "error"):
        getattr(logger, name)(name)
    assert recorder.lines == shown


def test_a_disabled_logger_writes_no_rows_but_returns_them(recorder):
    logger.set_level(logger.DISABLED)
    assert dump(a=1) == {"a": 1}
    assert dump(a=2) == {"a": 2}
    assert recorder.rows == []


def test_scoped_configure_lends_a_logger_and_closes_it(tmp_path, recorder):
    with pytest.raises(KeyError), logger.scoped_configure(str(tmp_path), ["csv"]):
        dump(a=1)
        assert logger.get_dir() == str(tmp_path)
        (inner,) = logger.get_current().output_formats
        raise KeyError
    dump(b=2)
    assert inner.file.closed
    assert recorder.rows == [{"b": 2}] and not recorder.closed
    assert [*table(tmp_path / "progress.csv")[0]] == ["a"]


def test_reset_closes_the_logger_and_goes_back_to_stdout(recorder, capsys):
    logger.reset()
    logger.log("after")
    logger.reset()
    logger.log("again")
    assert recorder.closed and recorder.lines == []
    assert capsys.readouterr().out == "after\nagain\n"
    assert logger.get_dir() is None


def test_profiles_add_up_seconds_also_of_a_block_that_raises(recorder, monkeypatch):
    clock = iter([10.0, 11.0, 20.0, 22.0, 30.0, 34.0])
    monkeypatch.setattr(logger.time, "time", lambda: next(clock))

    @logger.profile("work")
    def double(x):
        return 2 * x

    with logger.profile_kv("work"):
        pass
    assert double(4) == 8 and double.__name__ == "double"
    with pytest.raises(KeyError), logger.profile_kv("work"):
        raise KeyError
    assert logger.dumpkvs() == {"wait_work": 7.0}


class Comm:
    """Two ranks of an MPI communicator."""

    def __init__(self, rank):
        self.rank = rank

    def gather(self, mine):
        return [mine, {"a": (10.0, 3), "only": (5.0, 1)}] if self.rank == 0 else None


def test_rows_of_an_mpi_communicator_are_weighted_means(recorder):
    logger.set_comm(Comm(0))
    logger.logkv_mean("a", 2.0)
    logger.logkv("name", "text has no mean")
    assert logger.dumpkvs() == {"a": pytest.approx(8.0), "only": 5.0}
    assert logger.mpi_weighted_mean(Comm(1), {"a": (1.0, 1)}) == {}


def test_configure_reads_folder_and_formats_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_LOGDIR", str(tmp_path / "x"))
    monkeypatch.setenv("OPENAI_LOG_FORMAT", "json,csv")
    logger.configure()
    dump(a=1)
    logger.reset()
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["progress.csv", "progress.json"]


def test_configure_makes_a_dated_folder_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(logger.tempfile, "gettempdir", lambda: str(tmp_path))
    logger.configure(format_strs=["csv"])
    (folder,) = tmp_path.iterdir()
    assert logger.get_dir() == str(folder)
    assert re.fullmatch(r"openai(-\d+){7}", folder.name)
    logger.reset()


@pytest.mark.parametrize("variable", ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"])
def test_a_further_rank_writes_a_text_log_of_its_own(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    logger.configure(str(tmp_path))
    logger.log("hello")
    logger.reset()
    assert logger.get_rank_without_mpi_import() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["log-rank002.txt"]


def test_no_formats_means_silence(tmp_path, capsys):
    logger.configure(str(tmp_path), [])
    logger.log("hello")
    dump(a=1)
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())
    assert Logger.CURRENT.output_formats == []


def test_tensorboard_draws_numbers_at_their_steps_and_passes_over_text(monkeypatch, tmp_path):
    class Writer:
        def __init__(self, folder):
            self.points = []

        def add_scalar(self, key, value, step):
            self.points.append((key, value, step))

        def flush(self):
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = logger.make_output_format("tensorboard", str(tmp_path))
    log.writekvs({"step": 40, "loss": np.float32(0.5), "depths": "1 2 3"})
    log.writekvs({"loss": 0.25})
    assert log.writer.points == [("step", 40.0, 40), ("loss", 0.5, 40), ("loss", 0.25, 41)]
