"""Formats of logs: rows of key-value pairs, and lines of text.

The formats are stdout, log (log.txt), csv (progress.csv), json and jsonl (one JSON object per line
in progress.json or progress.jsonl), and tensorboard.
"""

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from . import faults, input_files
from .environment import refuse_unknown_format
from .unfinished_files import partial_of
from .writing import STDOUT, named, writing

_LONGEST = 40  # letters of a key or a value in a table


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
    with writing(path):
        with contextlib.suppress(FileNotFoundError):
            input_files.size_of(path)  # a pipe would wait for a reader
        return open(path, "a+", encoding="utf-8", errors="replace", newline="")


class _TextFormat:
    file: TextIO

    def _append(self, text: str) -> None:
        with named(STDOUT if self.file is sys.stdout else getattr(self.file, "name", "the log")):
            faults.point("log.write")
            self.file.write(text)
            self.file.flush()

    def _open_again_if_gone(self) -> bool:
        # What is written to a file that was removed is lost, and nobody would know.
        name = self.file.name
        if os.path.exists(name):
            return False
        print(f"warning: {name} vanished during the run, with what it held", file=sys.stderr)
        self.file.close()
        with writing(os.path.dirname(name)):
            os.makedirs(os.path.dirname(name), exist_ok=True)
        self.file = _open_log(name)
        return True


class _FileFormat(_TextFormat, KVWriter):
    def __init__(self, filename: str) -> None:
        self.file = _open_log(filename)
        # A killed run can leave a row without its end; the next row must not join it.
        with named(self.file.name):
            self.file.seek(0)
            if self.file.read()[-1:] not in ("", "\n"):
                self.file.write("\n")

    def close(self) -> None:
        """Close the file."""
        with named(self.file.name):
            self.file.close()


class HumanOutputFormat(_TextFormat, KVWriter, SeqWriter):
    """Tables and lines for people, appended to the file of a name or to an open text file."""

    def __init__(self, filename_or_file: str | TextIO) -> None:
        self.owned = isinstance(filename_or_file, str)
        self.file = filename_or_file
        if self.owned:
            self.file = _open_log(filename_or_file)

    def writekvs(self, kvs: dict[str, Any]) -> None:
        rows = []
        for key, value in sorted(kvs.items()):
            shown = f"{float(value):.4g}" if hasattr(value, "__float__") else str(value)
            rows.append((self._truncate(key), self._truncate(shown)))
        if rows:
            key_width, value_width = (max(map(len, column)) for column in zip(*rows, strict=True))
            rule = "-" * (key_width + value_width + 7)
            lines = [f"| {key:<{key_width}} | {value:<{value_width}} |" for key, value in rows]
            self._write("\n".join([rule, *lines, rule]))

    def _truncate(self, s: str) -> str:
        return s if len(s) <= _LONGEST else s[: _LONGEST - 3] + "..."

    def writeseq(self, seq: Sequence[str]) -> None:
        self._write(" ".join(seq))

    def _write(self, text: str) -> None:
        if self.owned:
            self._open_again_if_gone()
        self._append(f"{text}\n")

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self.owned:
            with named(self.file.name):
                self.file.close()


class JSONOutputFormat(_FileFormat):
    """One JSON object per row."""

    def writekvs(self, kvs: dict[str, Any]) -> None:
        plain = {key: v.item() if hasattr(v, "item") else v for key, v in kvs.items()}
        self._open_again_if_gone()
        self._append(json.dumps(plain) + "\n")


def _table(path: str) -> list[list[str]]:
    """Read the rows of a table that will be written anew when its columns grow.

    Raises:
        UserError: if something would be lost then.
    """
    try:
        content = input_files.read_bytes(path)
        content.split(b"\n", 1)[0].decode("utf-8")  # in a later row, a kill may have cut a letter
        text = content.decode("utf-8", "replace")
        return list(csv.reader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: expected the table of an earlier run, got a file that is none "
            f"({type(error).__name__}); move it away to go on"
        ) from None


class CSVOutputFormat(_FileFormat):
    """A table whose columns grow when a new key comes up."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename)
        self.keys: list[str] = next(iter(_table(self.file.name)), [])

    def writekvs(self, kvs: dict[str, Any]) -> None:
        if self._open_again_if_gone():
            self.keys = []
        if new := sorted(kvs.keys() - set(self.keys)):
            self._grow(new)
        row = io.StringIO(newline="")
        csv.writer(row).writerow([kvs.get(key, "") for key in self.keys])
        self._append(row.getvalue())

    def _grow(self, new: list[str]) -> None:
        # Written to another file that then takes its place: a kill in between loses no row.
        partial = partial_of(Path(self.file.name))
        with writing(self.file.name, partial):
            self.file.seek(0)
            rows = [row + [""] * len(new) for row in list(csv.reader(self.file))[1:]]
            try:
                with open(partial, "w", encoding="utf-8", errors="replace", newline="") as file:
                    csv.writer(file).writerows([self.keys + new, *rows])
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            self.file.close()
            os.replace(partial, self.file.name)
            self.keys += new
        self.file = _open_log(self.file.name)


class TensorBoardOutputFormat(KVWriter):
    """Event files for TensorBoard; needs `pip install tensorboard`."""

    def __init__(self, dir: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.dir, self.step = dir, 1
        with writing(dir):
            self.writer = SummaryWriter(dir)

    def writekvs(self, kvs: dict[str, Any]) -> None:
        # A row that tells its step stands there, also when a run is continued.
        self.step = int(kvs.get("step", self.step))
        for key, value in kvs.items():
            with contextlib.suppress(ValueError, TypeError):  # text has no curve
                self.writer.add_scalar(key, float(value), self.step)
        with named(self.dir):
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
    refuse_unknown_format(format)
    with writing(ev_dir):
        os.makedirs(ev_dir, exist_ok=True)
    if format == "stdout":
        return HumanOutputFormat(sys.stdout)
    make, name = MAKERS[format]
    return make(os.path.join(ev_dir, name.format(log_suffix)))


MAKERS: dict[str, tuple[Callable[[str], KVWriter], str]] = {
    "log": (HumanOutputFormat, "log{}.txt"),
    "json": (JSONOutputFormat, "progress{}.json"),
    "jsonl": (JSONOutputFormat, "progress{}.jsonl"),
    "csv": (CSVOutputFormat, "progress{}.csv"),
    "tensorboard": (TensorBoardOutputFormat, "tb{}"),
}
