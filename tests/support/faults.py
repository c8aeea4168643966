"""Runs that are killed, or whose writes and reads fail, at a point; and what must follow.

The same command, given again, ends; its files are those of a run that nothing disturbed, bit for
bit; nothing of ours lies beside them, and nothing of the user's is gone.
"""

import io
import itertools
import json
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support import children
from support.cli import Result, read_csv, succeed

from guided_diffusion.runtime import faults
from guided_diffusion.runtime.faults import Fault

# Files of a user in a run folder, under names near to ours.
USERS = {"notes.txt": "mine", ".notes.partial": "mine too", ".01.png.4711.partial": "and mine"}
KINDS = ["ENOSPC", "EACCES", "EIO", "MemoryError"]
NEVER = 10**9
TIMES = {"images_per_second", "minutes_left", "forwards", "forwards_left"}  # of one start alone


@dataclass
class Trials:
    """A command, the files that it leaves when nothing disturbs it, and trials with faults.

    Args:
        name: name of the command.
        argv: its flags, --out_dir excepted.
        base: folder of the undisturbed run and of the trials.
    """

    name: str
    argv: Sequence[object]
    base: Path
    visits: dict[str, int] = field(default_factory=dict)  # of the points, by beginning of names
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        result = self._run(self.base / "undisturbed", None)
        assert result.code == 0, result.err
        self.expected = final_files(self.base / "undisturbed")

    def _run(self, folder: Path, fault: Fault | None) -> Result:
        folder.mkdir(exist_ok=True, parents=True)
        for name, text in USERS.items():
            if not (folder / name).exists():
                (folder / name).write_text(text)
        words = [*self.argv, "--out_dir", folder]
        return children.run(self.name, *words, before=lambda: faults.plan(fault))

    def total(self, point: str) -> int:
        """Return how often an undisturbed run comes to a point."""
        if point not in self.visits:
            folder, fault = self.base / f"count{len(self.visits)}", Fault(point, NEVER, "kill")
            found, code, problem = children.ask(lambda: self._count(folder, fault))
            assert code == 0, problem
            self.visits[point] = found
        return self.visits[point]

    def _count(self, folder: Path, fault: Fault) -> int:
        faults.plan(fault)
        succeed(self.name, *self.argv, "--out_dir", folder)
        return fault.visits

    def disturb(self, fault: Fault) -> Result:
        """Run the command into a new folder with a fault, then once more to the end, and compare.

        Returns:
            what the disturbed run printed, and its exit code.
        """
        folder = self.base / f"trial{next(self.numbers)}"
        first, again = self._run(folder, fault), self._run(folder, None)
        assert again.code == 0, f"after {fault}: {again.err}"
        for name, text in USERS.items():
            assert (folder / name).read_text() == text, f"after {fault}: {name}"
        left = {p.name for p in folder.rglob(".*")} - USERS.keys()
        assert not left, f"after {fault}: {left}"
        assert_same(final_files(folder), self.expected, str(fault))
        return first

    def kill(self, share: float) -> None:
        """Kill the run after a share of all its points, and see that the same command mends it."""
        nth = 1 + int(share * (self.total("any") - 1))
        result = self.disturb(Fault("any", nth, "kill"))
        assert result.code == -signal.SIGKILL

    def fail(self, point: str, share: float, kind: str) -> None:
        """Let a call fail after a share of the visits to a point: one line, exit code 2."""
        nth = 1 + int(share * (self.total(point) - 1))
        result = self.disturb(Fault(point, nth, kind))
        assert result.code == 2, f"{point}:{nth}:{kind}: {result.code}, {result.err}"
        assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
        assert re.search(r"\w/[\w.]+|standard output", result.err), (
            f"{point}:{nth}:{kind}: {result.err}"
        )


def final_files(folder: Path) -> dict[str, Any]:
    """Return {relative path: what must be the same after every kill} of a run folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in USERS and not path.name.startswith("log"):
            found[name] = _content(path)
    if "manifest" in " ".join(found):  # a kill after the files of a sequence leaves out its row
        found = {name: value for name, value in found.items() if "progress" not in name}
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".npz":  # the archive holds the time of day
        with np.load(path) as arrays:
            return {name: (a.shape, a.dtype, a.tobytes()) for name, a in arrays.items()}
    if path.suffix == ".pt":
        return _plain(torch.load(io.BytesIO(path.read_bytes()), weights_only=True))
    if path.name == "args.json":  # a copy of the folder's own name
        record = json.loads(path.read_text())
        return record | {"args": record["args"] | {"out_dir": ""}}
    if path.name == "progress.csv":
        rows = [tuple((k, v) for k, v in r.items() if k not in TIMES) for r in read_csv(path)]
        trained = any("step" in dict(row) for row in rows)
        return sorted(rows) if trained else set(rows)
    if path.name.startswith("progress"):  # holds the same rows as the table
        return b"\n" in path.read_bytes()
    return path.read_bytes()


def _plain(value: Any) -> Any:
    if torch.is_tensor(value):
        return value.dtype, value.shape, value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def assert_same(found: dict[str, Any], expected: dict[str, Any], after: str) -> None:
    """Insist that two runs left the same files."""
    assert found.keys() == expected.keys(), f"after {after}: {found.keys() ^ expected.keys()}"
    differing = [name for name, content in expected.items() if found[name] != content]
    assert not differing, f"after {after}: {differing}"


def shares(count: int) -> list[float]:
    """Return numbers from 0 to 1 at equal distances."""
    return [round(index / (count - 1), 4) for index in range(count)]
