"""The run folder, and its record `args.json` of the settings and versions of the run.

To resume a run, run the same command again; a folder that was made by other flags is refused.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from .. import __version__
from ..errors import ArgumentError, UserError, blame
from . import atomic_files, dist_util, input_files, logger, run_lock
from .unfinished_files import is_partial

RECORD = "args.json"
PATHS = ("_dir", "_path", "_model", "_checkpoint")  # endings of the names of flags that hold a path
WEIGHTS = ".sha256"  # ending of the names of entries that hold the digest of a model's weights
PER_STEP = "batch_size x processes"  # name of the entry that holds the examples per step


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    own = {"guided_diffusion": __version__, "python": platform.python_version()}
    return own | {"torch": th.__version__, "numpy": np.__version__}


def default_folder(
    name: str, asked: Mapping[str, Any], free: Collection[str], defaults: Mapping[str, Any]
) -> Path:
    """Return the folder results/<name>_<digest of the settings>.

    Free settings and settings at their defaults do not enter the digest, so that a new setting
    changes no folder.
    """
    fixed = {
        setting: value
        for setting, value in asked.items()
        if setting not in free and not (setting in defaults and value == defaults[setting])
    }
    return Path("results") / f"{name}_{fingerprint(fixed)}"


def fingerprint(values: dict[str, Any]) -> str:
    """Return 8 hexadecimal digits that tell one set of values from another."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run of one command.

    Attributes:
        path: the folder, which need not exist.
        command: name of the command.
        asked: {name: value} of all settings and weights, as args.json records them.
        free: names among them that may differ when the run is continued.
        older: {name: value} of entries that older records lack.
        advice: end of the message where a record differs: what else a user can do.
    """

    path: Path
    command: str
    asked: Mapping[str, Any]
    free: Collection[str] = frozenset()
    older: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    advice: str = ""

    def refuse_other_run(self) -> None:
        """Refuse a folder that holds a run of other settings; writes nothing.

        Raises:
            UserError: naming each difference.
        """
        record = read_args(self.path / RECORD)
        if not record:
            return
        if record.get("script") != self.command:
            other = f"{record.get('script')!r}, not of {self.command!r}; choose another folder"
            raise ArgumentError("out_dir", f"{self.path} holds a run of {other}")
        before = {**self.older, **record["args"]}
        differing = {
            name: difference(name, before[name], value)
            for name, value in self.asked.items()
            if name in before and name not in self.free and not _same(name, before[name], value)
        }
        if differing:
            kind = "weights" if all(name.endswith(WEIGHTS) for name in differing) else "flags"
            raise ArgumentError(
                "out_dir",
                f"{self.path} holds a run of other {kind} ({'; '.join(differing.values())}); "
                f"give the same {kind} to continue it, or another folder{self.advice}",
            )

    def claim(self, **resolved: Any) -> None:
        """Write args.json into the folder, or check that the one there has the same settings.

        Call it after all other checks, so that a mistake leaves no folder behind.

        Args:
            **resolved: values that settings such as the precision `auto` took on this machine;
                recorded beside the settings.

        Raises:
            UserError: if the folder holds a run of other settings, or another run is at work in it.
        """
        record = {"script": self.command, "args": dict(self.asked), "resolved": resolved}
        record["versions"] = versions()
        with blame("out_dir"):
            atomic_files.make_folder(self.path)
        self.refuse_other_run()
        hold(self.path, self.command)

        def write() -> None:
            self.refuse_other_run()  # it may have come and gone since
            if read_args(self.path / RECORD) != record:
                self._write(record)
            run_lock.before_writes(self.path, lambda: self._restore(record))

        dist_util.once(write)

    def _write(self, record: dict[str, Any]) -> None:
        with atomic_files.atomic_write(self.path / RECORD, "w") as file:
            json.dump(record, file, indent=2)

    def _restore(self, record: dict[str, Any]) -> None:
        # Results without a record could not be told from those of other settings.
        if not (self.path / RECORD).exists():
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(record)
            logger.warn(f"{self.path / RECORD} vanished during the run; it is written anew")


def hold(folder: Path, command: str = "a run") -> None:
    """Let no other run into a folder until the command ends, and remove what a killed one left.

    Args:
        folder: the folder, which exists.
        command: name of the command, for the messages of others.

    Raises:
        UserError: if another run is at work in the folder.
    """
    run_lock.hold(folder, command)
    dist_util.once(lambda: _remove_partial_files(folder))


def _remove_partial_files(folder: Path) -> None:
    # `atomic_write` leaves them when a run is killed. A folder below with a record or lock of its
    # own is another run, which may be writing right now.
    for place, folders, names in os.walk(folder):
        if Path(place) != folder and not {RECORD, run_lock.NAME}.isdisjoint(names):
            folders.clear()
            continue
        for name in filter(is_partial, names):
            atomic_files.remove_partial(Path(place, name))


def difference(name: str, before: Any, now: Any) -> str:
    """Describe how an entry of a record differs, in terms of the flags that the user knows."""
    owner, _, flag = name.rpartition(".")
    role, _, stage = owner.partition(".")
    model = f"stage {stage}" if stage else f"the {role.replace('_', ' ')}"
    if name.endswith(WEIGHTS):
        digests = f"sha256 {str(before):.8} then and {str(now):.8} now"
        return f"the weights of {model} have changed since, {digests}"
    before, now = _shown(before), _shown(now)
    if name == "stages.names":
        return f"the names in --stages were {before}, are {now}"
    if name == PER_STEP:
        return f"--batch_size times the number of processes was {before}, is {now}"
    if name == "images":
        return "the images are other files now"
    return f"--{flag}{f' of {model}' if owner else ''} was {before}, is {now}"


def _same(name: str, one: Any, other: Any) -> bool:
    if name.endswith(PATHS) and isinstance(one, str) and isinstance(other, str):
        with contextlib.suppress(ValueError):  # no path holds a zero byte
            same = one and other and os.path.realpath(one) == os.path.realpath(other)
            return bool(same) or one == other
    return one == other


def read_args(path: Path) -> dict[str, Any]:
    """Read an `args.json`; return {} where there is none.

    Raises:
        UserError: if it is not JSON with an "args" object.
    """
    expected = "JSON with an 'args' object"
    try:
        record = input_files.read_json(path, expected)
    except FileNotFoundError:
        return {}
    if not isinstance(record, dict) or not isinstance(record.get("args"), dict):
        raise UserError(f"{path}: expected {expected}, got {_shown(record)}")
    if not isinstance(record.get("script", ""), str):
        raise UserError(f"{path}: expected text as its 'script', got {_shown(record['script'])}")
    return record


def _shown(value: Any) -> str:
    """Return a value of a record as it stands in Python, or its type if it may be long."""
    if isinstance(value, dict):
        return f"an object of {', '.join(map(repr, list(value)[:4])) or 'nothing'}"
    return f"{value!r:.200}" if not isinstance(value, list) else "a list"
