"""The manifest of a generation: a row per picture, kept as CSV.

Rows that a kill cut short, or that are damaged in another way, are left out when it is read; then
the sequence that lacks them is made again. Each rank appends to a part of its own while it works.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import UserError
from ..runtime import atomic_files, input_files

Row = dict[str, str]

PICTURE = "images/{sequence:05d}/{step:02d}.png"  # file_name of a picture


def write(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a manifest, unless the file holds the same already."""
    atomic_files.write_if_changed(path, as_text(columns, rows, header=True))


def as_text(columns: Sequence[str], rows: Iterable[Row], header: bool) -> bytes:
    """Return rows as lines of CSV, with the columns' names in front if `header`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read(path: Path, columns: Sequence[str], advice: str = "") -> Iterator[Row]:
    """Yield the rows of a manifest or part that can be read; of no file, none.

    Args:
        path: the file.
        columns: names that its columns have, in their order.
        advice: end of the message where it has others.

    Raises:
        UserError: if the file has other columns, or is none.
    """
    header, lines = _lines(path)
    if header and header != list(columns):
        expected = f"expected the columns {','.join(columns)}"
        raise UserError(f"{path}: {expected}, got {shown(','.join(header))}{advice}")
    yield from (
        dict(zip(columns, line, strict=True)) for line in lines if len(line) == len(columns)
    )


def read_any(path: Path, needed: Sequence[str]) -> list[Row]:
    """Return the rows of a finished manifest that can be read, whatever else its columns are.

    Raises:
        UserError: if the file is none, or lacks one of the needed columns.
    """
    header, lines = _lines(path)
    if not set(needed) <= set(header):
        found = f"got {shown(','.join(header)) or 'none'}"
        raise UserError(f"{path}: expected the columns {', '.join(needed)}, {found}")
    return [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]


def columns_of(path: Path) -> list[str]:
    """Return the names of the columns of a manifest; [] where there is none."""
    return _lines(path)[0] if path.is_file() else []


def _lines(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and all whole lines of values that can be read."""
    try:
        content = input_files.read_bytes(path)
    except FileNotFoundError:
        return [], []
    # Bytes that are no UTF-8 become surrogates, which no value of ours holds.
    text = whole_lines(content).decode("utf-8", "surrogateescape")
    reader, lines = csv.reader(io.StringIO(text, newline="")), []
    while True:
        try:
            lines.append(next(reader))
        except StopIteration:
            break
        except csv.Error:  # a field beyond the limit of csv, or a NUL: go on behind it
            continue
    header = lines[0] if lines else []
    return header, [line for line in lines[1:] if all(map(_is_text, line))]


def _is_text(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)


def shown(text: str, most: int = 200) -> str:
    """Return what a file holds, cut and made printable for a message of one line."""
    text = text if len(text) <= most else f"{text[:most]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def whole_lines(content: bytes) -> bytes:
    """Return the bytes up to the end of the last whole row."""
    # A killed run can leave a row cut off; a line that ends within quotes is not a whole row.
    end, quotes = len(content), content.count(b'"')
    while end >= 0:
        before, end = end, content.rfind(b"\n", 0, end)
        quotes -= content.count(b'"', max(end, 0), before)
        if not quotes % 2:
            break
    return content[: end + 1]


def complete_sequences(rows: Iterable[Row], amount: int) -> dict[int, list[Row]]:
    """Return {index: rows by step} of the sequences whose rows are all there and complete."""
    found: dict[int, dict[int, Row]] = {}
    for row in rows:
        if None not in row.values() and None not in row and is_sound(row):
            found.setdefault(int(row["sequence"]), {})[int(row["step"])] = row
    return {
        index: [steps[step] for step in range(amount + 1)]
        for index, steps in found.items()
        if len(steps) == amount + 1 and max(steps) == amount
    }


def is_sound(row: Row) -> bool:
    """Return whether the numbers of a row are numbers, and its picture is where it belongs."""
    names = [name for name in ("sequence", "step", "depth") if name in row]
    if not all(row[name].isdecimal() and len(row[name]) < 10 for name in names):
        return False
    place = PICTURE.format(sequence=int(row["sequence"]), step=int(row["step"]))
    return row.get("file_name", place) == place
