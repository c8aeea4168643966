"""Formats that a log is written in: rows of key-value pairs, lines of text.

stdout, log (log.txt), csv (progress.csv), json and jsonl (one JSON object per line in
progress.json or progress.jsonl), tensorboard.
"""

import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ..errors import UserError

_LONGEST = 40  # letters of a key or a value in a table


class UnknownFormatError(UserError):
    """A log format of another name, as OPENAI_LOG_FORMAT may give."""


class KVWriter:
    """A format that takes rows of key-value pairs."""

    def writekvs(self, kvs: dict[str, Any]) -> None:
        """Write one row."""
        raise NotImplementedError


class SeqWriter:
    """A format that takes lines of text."""

    def writeseq(self, seq: Sequence[str]) -> None:
        """Write the words of one line."""
        raise NotImplementedError


def _open_log(filename: str) -> TextIO:
    path = os.path.abspath(filename)  # a later change of the working directory must not matter
    return open(path, "a+", encoding="utf-8", errors="replace", newline="")


class _FileFormat(KVWriter):
    def __init__(self, filename: str) -> None:
        self.file = _open_log(filename)
        self._end_cut_line()

    def _end_cut_line(self) -> None:
        # A killed run can leave a row without its end; the next row must not join it.
        self.file.seek(0)
        if self.file.read()[-1:] not in ("", "\n"):
            self.file.write("\n")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class HumanOutputFormat(KVWriter, SeqWriter):
    """Tables and lines for people; to a file name or an open text file."""

    def __init__(self, filename_or_file: str | TextIO) -> None:
        self.owned = isinstance(filename_or_file, str)
        self.file = (
            open(filename_or_file, "a", encoding="utf-8") if self.owned else filename_or_file
        )

    def writekvs(self, kvs: dict[str, Any]) -> None:
        rows = [
            (self._truncate(key), self._truncate(_shown(value)))
            for key, value in sorted(kvs.items())
        ]
        if not rows:
            return
        key_width, value_width = (max(len(row[i]) for row in rows) for i in (0, 1))
        rule = "-" * (key_width + value_width + 7)
        lines = [f"| {key:<{key_width}} | {value:<{value_width}} |" for key, value in rows]
        self.file.write("\n".join([rule, *lines, rule]) + "\n")
        self.file.flush()

    def _truncate(self, s: str) -> str:
        return s if len(s) <= _LONGEST else s[: _LONGEST - 3] + "..."

    def writeseq(self, seq: Sequence[str]) -> None:
        self.file.write(" ".join(seq) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self.owned:
            self.file.close()


def _shown(value: Any) -> str:
    return f"{float(value):.4g}" if hasattr(value, "__float__") else str(value)


class JSONOutputFormat(_FileFormat):
    """One JSON object per row."""

    def writekvs(self, kvs: dict[str, Any]) -> None:
        self.file.write(json.dumps({key: _plain(value) for key, value in kvs.items()}) + "\n")
        self.file.flush()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


class CSVOutputFormat(_FileFormat):
    """A table whose columns grow when a new key comes up."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename)
        self.file.seek(0)
        self.keys: list[str] = next(csv.reader(self.file), [])
        self.file.seek(0, os.SEEK_END)

    def writekvs(self, kvs: dict[str, Any]) -> None:
        new = sorted(kvs.keys() - set(self.keys))
        if new:
            self._widen(new)
        csv.writer(self.file).writerow([kvs.get(key, "") for key in self.keys])
        self.file.flush()

    def _widen(self, new: list[str]) -> None:
        # Into a file beside it that then takes its place: a kill in between loses no row.
        self.file.seek(0)
        rows = list(csv.reader(self.file))[1:]
        self.keys += new
        blank = [""] * len(new)
        folder, name = os.path.split(self.file.name)
        partial = os.path.join(folder, f".{name}.{os.getpid()}.partial")
        with open(partial, "w", encoding="utf-8", errors="replace", newline="") as file:
            csv.writer(file).writerows([self.keys, *(row + blank for row in rows)])
        self.file.close()
        os.replace(partial, self.file.name)
        self.file = _open_log(self.file.name)


class TensorBoardOutputFormat(KVWriter):
    """Event files for TensorBoard; needs `pip install tensorboard`."""

    def __init__(self, dir: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(dir)
        self.step = 1

    def writekvs(self, kvs: dict[str, Any]) -> None:
        for key, value in kvs.items():
            self.writer.add_scalar(key, float(value), self.step)
        self.writer.flush()
        self.step += 1

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


def make_output_format(format: str, ev_dir: str, log_suffix: str = "") -> KVWriter:
    """Open one format in a folder.

    Raises:
        UnknownFormatError: for an unknown name.
    """
    os.makedirs(ev_dir, exist_ok=True)
    makers: dict[str, Callable[[], KVWriter]] = {
        "stdout": lambda: HumanOutputFormat(sys.stdout),
        "log": lambda: HumanOutputFormat(os.path.join(ev_dir, f"log{log_suffix}.txt")),
        "json": lambda: JSONOutputFormat(os.path.join(ev_dir, f"progress{log_suffix}.json")),
        "jsonl": lambda: JSONOutputFormat(os.path.join(ev_dir, f"progress{log_suffix}.jsonl")),
        "csv": lambda: CSVOutputFormat(os.path.join(ev_dir, f"progress{log_suffix}.csv")),
        "tensorboard": lambda: TensorBoardOutputFormat(os.path.join(ev_dir, f"tb{log_suffix}")),
    }
    if format not in makers:
        raise UnknownFormatError(
            f"log format (OPENAI_LOG_FORMAT): expected one of {', '.join(makers)}, got {format!r}"
        )
    return makers[format]()
