"""Contact sheets and pages of finished sequences, made from the rows of a manifest."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from ..data.pictures import grid, read_tile, scale_of
from ..runtime import atomic_files
from .manifest import Row

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Progressive sequences</title>
<style>
body {{ font-family: sans-serif; margin: 2em; color: #222 }}
figure {{ display: inline-block; margin: 2px; text-align: center; font-size: 12px }}
img {{ min-width: 96px; image-rendering: pixelated; display: block }}
.sequence {{ white-space: nowrap; overflow-x: auto }}
</style>
<h1>Progressive sequences</h1>
<p>Each line is one source image (left) on its way. Below a picture: its soft label, and the
depth d from which it was decoded.</p>
{sections}
</html>
"""


def by_direction(rows: Sequence[Row]) -> dict[tuple[str, str], list[list[Row]]]:
    """Return {(source, target): rows of each sequence} of a manifest, in its order."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        lines = found.setdefault((row["source"], row["target"]), {})
        lines.setdefault(row["sequence"], []).append(row)
    return {ends: list(lines.values()) for ends, lines in found.items()}


def contact_sheet(folder: Path, rows: Sequence[Row], sequences: int = 16) -> Image.Image:
    """Return the first sequences of a manifest as rows of captioned pictures, source first.

    Args:
        folder: folder of the manifest.
        rows: rows of the manifest, in order.
        sequences: most sequences to show, shared evenly by the directions.
    """
    directions = by_direction(rows).values()
    each = max(1, sequences // len(directions))
    shown = [line for lines in directions for line in lines[:each]]
    tiles = [[read_tile(folder / row["file_name"]) for row in line] for line in shown]
    several = len(directions) > 1
    captions = [[_caption(row, named=several) for row in line] for line in shown]
    return grid(tiles, captions, scale_of(tiles[0][0]))


def _caption(row: Row, named: bool = False) -> str:
    if row["step"] == "0":
        return row["source"]
    name = f"{row['target'][:9]} " if named else ""
    return f"{name}{float(row['label_' + row['target']]):.2f}  d{row['depth']}"


def save_contact_sheet(folder: Path, rows: Sequence[Row]) -> Path:
    """Save the contact sheet beside a manifest, unless it is there already; return its path."""
    path, content = folder / "contact_sheet.png", io.BytesIO()
    contact_sheet(folder, rows).save(content, "png")
    atomic_files.write_if_changed(path, content.getvalue())
    return path


def page(rows: Sequence[Row], sequences: int = 100) -> str:
    """Return a manifest as an HTML page, to be saved beside it: a section per direction.

    Args:
        rows: rows of the manifest, in order.
        sequences: most sequences of each direction to show.
    """
    sections = []
    for ends, lines in by_direction(rows).items():
        shown = lines[:sequences]
        depths = "; ".join(
            f"{line[0]['sequence']}: {' '.join(row['depth'] for row in line[1:])}" for line in shown
        )
        sections += [f"<h2>{escape(' to '.join(ends))}</h2>"]
        sections += [f"<p>{len(shown)} of {len(lines)} sequences.</p>", *map(_figures, shown)]
        sections += [f"<p>Depths: {escape(depths)}</p>"]
    return PAGE.format(sections="\n".join(sections))


def _figures(rows: Sequence[Row]) -> str:
    figures = "".join(
        f'<figure><img loading="lazy" src="{escape(quote(row["file_name"]))}" '
        f'alt="{escape(row["sequence"])}, step {escape(row["step"])}">'
        f"<figcaption>{escape(_caption(row))}<br>{escape(_label(row))}</figcaption></figure>"
        for row in rows
    )
    title = escape(f"{rows[0]['sequence']}: {rows[0]['source_file']}")
    return f'<div class="sequence"><p>{title}</p>{figures}</div>'


def _label(row: Row) -> str:
    shares = {key[6:]: float(value) for key, value in row.items() if key.startswith("label_")}
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.items() if share)
