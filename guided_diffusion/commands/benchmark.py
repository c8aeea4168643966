"""Measure speed, memory and quality: benchmark MEASUREMENT [--FLAG VALUE ...]

sequence, train and forward give ratios over the published procedure, of runs made in turn: how
many times quicker are sequences by each engine, training steps, and one forward in its variants?
scaling gives the memory for few and for many images, and the time on two ranks over that on one.
neighbours gives the time beside busy processes, by how threads wait for one another. quality,
which is meant where none is named, compares what each engine draws with the converged solution.
Without models it uses the demo's; MEASUREMENT --help lists the flags of one.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ..benchmark import (
    neighbours,
    network_timing,
    scaling,
    sequence_timing,
    solver_accuracy,
    timing,
)
from ..config import flags, tool_options
from ..errors import UserError
from ..runtime import command, dist_util, logger


@dataclass(frozen=True)
class Measurement:
    """A measurement: the groups of its flags, how it is made, and what is printed of it."""

    groups: tuple[type, ...]
    measure: Callable[[argparse.Namespace, Set[str]], dict[str, Any]]
    table: Callable[[dict[str, Any]], list[str]]


NETWORK = network_timing.NETWORK
MEASUREMENTS = {
    "sequence": Measurement(
        (tool_options.SequenceTimingOptions, *NETWORK), sequence_timing.sequence, timing.lines
    ),
    "train": Measurement(
        (tool_options.TrainTimingOptions, *NETWORK), network_timing.train, timing.lines
    ),
    "forward": Measurement(
        (tool_options.ForwardTimingOptions, *NETWORK), network_timing.forward, timing.lines
    ),
    "scaling": Measurement((tool_options.ScalingOptions,), scaling.scaling, scaling.lines),
    "neighbours": Measurement(
        (tool_options.NeighboursOptions,), neighbours.neighbours, neighbours.lines
    ),
    "quality": Measurement(
        (tool_options.BenchmarkOptions,), solver_accuracy.quality, solver_accuracy.lines
    ),
}


@command.command(interrupted=command.STARTS_ANEW)
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Find out what to measure, and how.
    argv = sys.argv[1:] if argv is None else list(argv)
    name, argv = chosen(argv)
    measurement = MEASUREMENTS[name]
    args = create_argparser(name).parse_args(argv)
    tool_options.refuse_unwritable(args.out, replacing=False)
    dist_util.setup_dist(device=args.device)

    # Measure, and print the table.
    record = measurement.measure(args, flags.given_flags(argv))
    print("\n".join(measurement.table(record)), flush=True)

    # Keep the numbers.
    if args.out:
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        logger.log(f"appended to {args.out}")


def chosen(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the measurement, and the words that follow it."""
    if not argv or argv[0].startswith("--"):
        return "quality", list(argv)
    if argv[0] not in MEASUREMENTS:
        raise UserError(
            f"benchmark: expected one of {', '.join(MEASUREMENTS)} or no name, got {argv[0]!r}"
        )
    return argv[0], list(argv[1:])


def create_argparser(name: str = "quality") -> argparse.ArgumentParser:
    """Return the parser of all flags of a measurement."""
    return flags.create_parser(__doc__, *MEASUREMENTS[name].groups)
