"""Measure speed, memory and quality: benchmark MEASUREMENT [--FLAG VALUE ...]

sequence, train and forward give ratios over the published procedure, of runs made in turn: how
many times quicker are sequences by each engine, training steps, and one forward in its variants?
scaling gives the memory for few and for many images, and the time on two ranks over that on one.
neighbours gives the time beside busy processes, by how threads wait for one another. quality,
which is meant where none is named, compares what each engine draws with the converged solution.
Without models it uses the demo's; MEASUREMENT --help lists the flags of one.
"""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..benchmark import (
    neighbours,
    network_timing,
    scaling,
    sequence_timing,
    solver_accuracy,
    timing,
)
from ..config.settings import Settings
from ..errors import UserError
from ..runtime import atomic_files, logger
from ..runtime.command import STARTS_ANEW, Command, reported

Record = dict[str, Any]


def measuring(measure: Callable[..., Record], table: Callable[[Record], list[str]]) -> Command:
    """Return the command of a measurement.

    Args:
        measure: takes settings, returns a record.
        table: makes the lines to print of a record.
    """

    @functools.wraps(measure)
    def body(*settings: Settings) -> None:
        # Measure, and print the table.
        out = settings[0].values()["out"]
        atomic_files.refuse_unwritable(out, replacing=False)
        record = measure(*settings)
        print("\n".join(table(record)), flush=True)

        # Keep the numbers.
        if out:
            with open(out, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            logger.log(f"appended to {out}")

    return Command(body, interrupted=STARTS_ANEW, description=__doc__)


MEASUREMENTS = {
    "sequence": measuring(sequence_timing.sequence, timing.lines),
    "train": measuring(network_timing.train, timing.lines),
    "forward": measuring(network_timing.forward, timing.lines),
    "scaling": measuring(scaling.scaling, scaling.lines),
    "neighbours": measuring(neighbours.neighbours, neighbours.lines),
    "quality": measuring(solver_accuracy.quality, solver_accuracy.lines),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; by default with the words of the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    named = bool(words) and not words[0].startswith("--")
    name = words.pop(0) if named else "quality"
    with reported(STARTS_ANEW):
        if name not in MEASUREMENTS:
            names = ", ".join(MEASUREMENTS)
            raise UserError(f"benchmark: expected one of {names} or no name, got {name!r}")
    MEASUREMENTS[name](words)
