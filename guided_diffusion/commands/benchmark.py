"""Measure speed, memory and quality: benchmark MEASUREMENT [--FLAG VALUE ...]

sequence, train and forward time sequences by each engine, training steps, and variants of one
forward, in turn with the published procedure, and print how many times as fast they are. scaling
measures the memory for few and for many images, and the speed of two ranks over one. neighbours
measures the time beside busy processes, for several ways in which threads wait for one another.
quality compares the images of each engine with the converged solution; it is the default. Without
models the demo's are used. MEASUREMENT --help lists the flags of a measurement.
"""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmark import neighbours, network_timing, scaling, sequence_timing, timing
from ..benchmark import solver_accuracy as accuracy
from ..config.settings import Settings
from ..errors import UserError
from ..runtime import atomic_files, logger
from ..runtime.command import STARTS_ANEW, Command, reported

Record = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A function from settings to a record, and a function from the record to lines of text."""

    measure: Callable[..., Record]
    table: Callable[[Record], list[str]]

    def command(self) -> Command:
        """Return the command that makes the measurement."""

        @functools.wraps(self.measure)
        def body(*settings: Settings) -> None:
            # Measure, and print the table.
            out = settings[0].values()["out"]
            atomic_files.refuse_unwritable(out, replacing=False)
            record = self.measure(*settings)
            print("\n".join(self.table(record)), flush=True)

            # Keep the numbers.
            if out:
                with atomic_files.appending(Path(out)) as file:
                    file.write(json.dumps(record).encode() + b"\n")
                logger.log(f"appended to {out}")

        return Command(body, interrupted=STARTS_ANEW, description=__doc__)


MEASUREMENTS = {
    "sequence": Measurement(sequence_timing.sequence, timing.lines),
    "train": Measurement(network_timing.train, timing.lines),
    "forward": Measurement(network_timing.forward, timing.lines),
    "scaling": Measurement(scaling.scaling, scaling.lines),
    "neighbours": Measurement(neighbours.neighbours, neighbours.lines),
    "quality": Measurement(accuracy.quality, accuracy.lines),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; by default with the words of the command line."""
    with reported(STARTS_ANEW):
        name, words = chosen(sys.argv[1:] if argv is None else argv)
    MEASUREMENTS[name].command()(words)


def chosen(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the measurement, and the words that follow it."""
    if not argv or argv[0].startswith("--"):
        return "quality", list(argv)
    if argv[0] not in MEASUREMENTS:
        names = ", ".join(MEASUREMENTS)
        raise UserError(f"benchmark: expected one of {names} or no name, got {argv[0]!r}")
    return argv[0], list(argv[1:])
