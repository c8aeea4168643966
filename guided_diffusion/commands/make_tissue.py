"""Draw H&E-like tiles of a chosen severity, 0 (healthy) to 1, or of several stages.

index.csv lists every file with its seed and its severity. The same command draws the same tiles.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ..data.drawn_tissue import draw_tile
from ..data.settings import TissueSettings
from ..errors import ArgumentError, blame
from ..runtime import atomic_files, logger, progress_bars, run_folder
from ..runtime.command import STARTS_ANEW, command
from ..runtime.random_streams import Stream, generator


@command(interrupted=STARTS_ANEW)
def main(asked: TissueSettings) -> None:
    """Draw every tile."""
    tiles = list(plan(asked))
    folder = Path(asked.out_dir)

    # Refuse a folder with other pictures, which would be taken for pictures of this run.
    if not asked.out_dir:
        raise ArgumentError("out_dir", "expected a folder to write to, got none")
    others = {path.relative_to(folder).as_posix() for path in folder.glob("**/*.png")}
    others -= {file for file, _, _ in tiles}
    if others:
        raise ArgumentError("out_dir", f"expected no other pictures in {folder}, got {min(others)}")
    with blame("out_dir"):
        atomic_files.make_folder(folder)
    run_folder.hold(folder, main.name)
    (folder / "index.csv").unlink(missing_ok=True)

    # Draw every tile, and list them last: the list stands for a finished run.
    for file, seed, severity in progress_bars.progress(tiles, unit="tile"):
        atomic_files.make_subfolder((folder / file).parent)
        with atomic_files.atomic_write(folder / file) as stream:
            Image.fromarray(draw_tile(seed, severity, asked.image_size)).save(stream, "png")
    with atomic_files.atomic_write(folder / "index.csv", "w") as stream:
        csv.writer(stream).writerows([("file", "seed", "severity"), *tiles])
    logger.log(f"drew {len(tiles)} tiles in {folder}")


def plan(asked: TissueSettings) -> Iterator[tuple[str, int, float]]:
    """Yield file, seed and severity of each tile; stages take seeds in turn and share no tissue."""
    chosen = read_stages(asked.stages) if asked.stages else {f"{asked.severity:g}": asked.severity}
    for index in range(asked.num_images):
        for turn, (name, middle) in enumerate(chosen.items()):
            seed = asked.seed + index * len(chosen) + turn
            ends = (middle - asked.severity_spread, middle + asked.severity_spread)
            rng = generator(seed, Stream.TISSUE_SEVERITY)
            severity = rng.uniform(max(0, ends[0]), min(1, ends[1]))
            folder = f"{name}/" if asked.stages else ""
            yield f"{folder}{name}_{index:05d}.png", seed, round(severity, 6)


def read_stages(text: str) -> dict[str, float]:
    """Return severity by stage, from `normal=0.1,tumour=0.9`.

    Raises:
        UserError: unless the names differ and the severities are in [0, 1].
    """
    pairs = re.findall(r"(?:^|,)([A-Za-z0-9-]+)=([0-9]*\.?[0-9]+)(?=,|$)", text)
    stages = {name: float(severity) for name, severity in pairs}
    if len(stages) != len(text.split(",")) or max(stages.values()) > 1:
        form = "NAME=SEVERITY,NAME=SEVERITY with different names of letters, digits and -"
        problem = f"expected {form}, and severities from 0 to 1, got {text!r}"
        raise ArgumentError("stages", problem)
    return stages
