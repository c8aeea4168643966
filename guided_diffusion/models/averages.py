"""Averages of weights: how fast they forget their start, and when to use one.

An average starts as a copy of the weights and takes up the weights after every step: update
t = 1, 2, ... keeps a share of it, the rate. While much of it is still its start, it is worth less
than the weights themselves: in a training from scratch the start is noise.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import UserError
from ..runtime import atomic_files, dist_util, input_files, logger

RAW_ABOVE = 0.1  # largest share of its start at which an average is used in place of the weights
RECORD = "averages.json"
NAME = r"ema_(\d*\.?\d+(?:e-?\d+)?)_(\d+)\.pt"


def rate_of_update(rate: float, update: int, warmup: bool = False) -> float:
    """Return the share of an average that update 1, 2, ... keeps."""
    return min(rate, (1 + update) / (10 + update)) if warmup else rate


def share_of_start(rate: float, updates: int, warmup: bool = False) -> float:
    """Return the share of an average that is still its start after some updates.

    Args:
        rate: decay of the average, in [0, 1).
        updates: number of updates, at least 0.
        warmup: whether early updates kept less; see `rate_of_update`.
    """
    early = 0
    if warmup:  # (1 + t) / (10 + t) is below the rate up to about here
        early = min(updates, max(0, math.ceil((10 * rate - 1) / (1 - rate)) - 1))
    # The product of (1 + t) / (10 + t) over t = 1 ... early is one of nine factors.
    warm = math.prod((1 + k) / (early + 1 + k) for k in range(1, 10))
    return warm * rate ** (updates - early)


@dataclasses.dataclass(frozen=True)
class Average:
    """A running average of weights.

    Attributes:
        rate: its decay.
        began: step after which it was a copy of the weights.
        warmup: whether early updates keep less; see `rate_of_update`.
    """

    rate: float
    began: int = 0
    warmup: bool = False

    def rate_of_step(self, step: int) -> float:
        """Return the share of the average that the update after step 1, 2, ... keeps."""
        return rate_of_update(self.rate, max(1, step - self.began), self.warmup)

    def share(self, done: int) -> float:
        """Return the share that is still its start when some steps are done."""
        return share_of_start(self.rate, max(0, done - self.began), self.warmup)

    def told(self, done: int) -> str:
        """Say how much of it is still its start when some steps are done."""
        start = f"weights of step {self.began}, where" if self.began else "weights with which"
        return f"{percent(self.share(done))} is still the {start} it began"


def percent(share: float) -> str:
    """Write a share in whole percent, such as "97 %"."""
    return "less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def of_file(path: Path) -> tuple[Average, int] | None:
    """Return the average that a file holds by its name, and the steps done; None for other files.

    What the name does not tell stands in a record beside it. Without one the average began at step
    0 and had no warm-up, as upstream's.
    """
    if not (match := re.fullmatch(NAME, path.name)):
        return None
    rate = float(match[1])
    return next((a for a in recorded(path.parent) if a.rate == rate), Average(rate)), int(match[2])


def beginning(file: str) -> int:
    """Return the step after which the average in a file was a copy of the weights."""
    found = of_file(Path(file))
    return found[0].began if found else 0


def recorded(folder: Path) -> list[Average]:
    """Return the averages that the record in a folder describes; none where there is no record.

    Raises:
        UserError: if the record cannot be understood.
    """
    path = folder / RECORD
    try:
        entries = input_files.read_json(path, "a list of averages as a training writes it")
        found = [Average(**entry) for entry in entries]
        for average in found:
            kinds = type(average.rate), type(average.began), type(average.warmup)
            if kinds != (float, int, bool) or not (0 <= average.rate < 1 and average.began >= 0):
                raise ValueError(f"got {average}")
    except FileNotFoundError:
        return []
    except UserError as error:
        raise UserError(f"{error}; without the file, all count as plain ones") from None
    except (ValueError, TypeError) as error:
        expected = "expected a list of averages as a training writes it"
        problem = f"{expected} ({error}); without the file, all count as plain ones"
        raise UserError(f"{path}: {problem}") from None
    return found


def record(folder: Path, averages: Iterable[Average]) -> None:
    """Record averages in a folder, if their files would not tell enough by their names."""
    entries = [dataclasses.asdict(average) for average in averages]
    if any(entry["began"] or entry["warmup"] for entry in entries):
        content = json.dumps(entries, indent=2).encode()
        atomic_files.write_if_changed(folder / RECORD, content)


def young(averages: Iterable[Average], done: int) -> str:
    """Say how much of each average is its start after some steps, if it is 1 % or more; else ""."""
    old = [
        f"; of the average of rate {average.rate}, {average.told(done)}"
        for average in averages
        if average.share(done) >= 0.01
    ]
    return "".join(old)


def choose(averaged: Sequence[Path], raw: Path, told: bool = True) -> Path:
    """Return the first average that has left its start behind, else the weights themselves.

    Args:
        averaged: files of averages of one step, the best first.
        raw: file of the weights of that step.
        told: whether the log says why the weights are taken.
    """
    known = [(path, found) for path in averaged if (found := of_file(path))]
    for path, (average, done) in known:
        if average.share(done) <= RAW_ABOVE:
            return path
    if known and told:
        path, (average, done) = known[0]
        young = f"of {path.name}, {average.told(done)} (more than {percent(RAW_ABOVE)})"
        logger.log(
            f"{raw.parent}: taking the weights of {raw.name} without averaging, since {young}; to "
            "have it all the same, name the file; training with --ema_warmup True makes averages "
            "useful sooner"
        )
    return raw


def tell(path: Path) -> None:
    """Log how much of an average in a file is still its start, on rank 0."""
    if dist_util.rank() == 0 and (found := of_file(path)):
        average, done = found
        logger.log(f"{path}: of this average, {average.told(done)}")
