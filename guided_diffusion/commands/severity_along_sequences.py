"""Measure how severity rises along the sequences of a run on drawn tissue.

Severity is the share of a picture's area that nuclei cover, see data/drawn_tissue.py. The command
prints its mean at every step, and the Spearman correlation of step and severity.
"""

import dataclasses
from pathlib import Path

import numpy as np

from ..config.settings import Settings, setting
from ..data.drawn_tissue import severity_of
from ..data.image_files import open_image
from ..errors import UserError, require
from ..generation import manifest
from ..generation.manifest import Row
from ..generation.plan import folder_name
from ..generation.report import by_direction
from ..runtime.command import STARTS_ANEW, command

COLUMNS = "file_name", "sequence", "step", "depth", "source", "target"


@dataclasses.dataclass(frozen=True)
class SeveritySettings(Settings):
    """Sequences to measure."""

    folder: str = setting("", "folder that holds manifest.csv", place="folder")


@command(interrupted=STARTS_ANEW)
def main(asked: SeveritySettings) -> None:
    """Measure every picture."""
    # Read the manifest.
    folder = Path(asked.folder)
    sequences = read_manifest(folder)

    # Measure every picture: one row of severities per sequence.
    def severity(row: Row) -> float:
        return severity_of(np.asarray(open_image(folder / row["file_name"])))

    severities = np.array([list(map(severity, rows)) for rows in sequences])
    depths = np.array([[int(row["depth"]) for row in rows] for rows in sequences])

    # Print the mean of each step, and the correlations.
    print("step  mean depth  mean severity  sd")
    for step, (depth, column) in enumerate(zip(depths.T, severities.T, strict=True)):
        print(f"{step:4d}  {depth.mean():10.1f}  {column.mean():13.3f}  {column.std():.3f}")
    stats = require("scipy.stats", "metrics")
    for name, first in (("source and generated", 0), ("generated alone", 1)):
        found = [stats.spearmanr(range(len(s)), s).statistic for s in severities[:, first:]]
        rest = f"min {np.min(found):.3f}, N = {len(found)} sequences"
        print(f"Spearman of step and severity, {name}: mean {np.mean(found):.3f}, {rest}")


def read_manifest(folder: Path) -> list[list[Row]]:
    """Read the whole sequences of manifest.csv, the rows of each by step.

    Raises:
        UserError: if there is no manifest, or no whole sequence of one direction in it.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        raise UserError(f"{folder}: expected a folder with manifest.csv, found none in it")
    rows = manifest.read_any(path, COLUMNS)
    names = [folder_name(*ends) for ends in by_direction(rows)]
    if len(names) > 1:
        raise UserError(f"{folder}: expected the folder of one direction, such as {names[0]} in it")
    amount = max((int(row["step"]) for row in rows if manifest.is_sound(row)), default=0)
    sequences = list(manifest.complete_sequences(rows, amount).values())
    if not sequences:
        raise UserError(f"{path}: expected whole sequences, found none")
    return sequences
