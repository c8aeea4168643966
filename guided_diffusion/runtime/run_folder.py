"""The run folder: what was asked (`args.json`), and with which versions.

To resume a run, run the same command again; a folder that was made by other flags is refused.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch as th

from .. import __version__
from ..config import flags
from ..errors import ArgumentError, UserError
from . import atomic_files, dist_util

PATHS = ("_dir", "_path", "_model", "_checkpoint")  # ends of the names of flags that name a place


WEIGHTS = ".sha256"  # end of the names under which a record tells the weights of its models


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {
        "guided_diffusion": __version__,
        "python": platform.python_version(),
        "torch": th.__version__,
        "numpy": np.__version__,
    }


def default_folder(name: str, args: dict[str, Any], free: set[str], groups: Sequence[type]) -> Path:
    """Return results/<name>_<digest of the flags that decide>: a folder for each choice.

    Flags at the defaults of their groups have no part in it: a flag more changes no folder.
    """
    defaults = flags.defaults(*groups)
    fixed = {
        flag: value
        for flag, value in args.items()
        if flag not in free and (flag not in defaults or value != defaults[flag])
    }
    return Path("results") / f"{name}_{fingerprint(fixed)}"


def fingerprint(values: dict[str, Any]) -> str:
    """Return 8 hexadecimal digits that tell one set of values from another."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def claim(
    folder: Path,
    script: str,
    args: dict[str, Any],
    free: set[str],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Make a run folder ours: write `args.json`, or check that it asks for the same.

    Call it when nothing can go wrong any more, so that a mistake leaves no folder behind.

    Args:
        folder: the run folder; made where absent.
        script: name of the command.
        args: its flags.
        free: names of flags that may differ when a run is continued.
        defaults: what a record means that is older than a flag.

    Raises:
        UserError: if the folder holds a run of other flags, naming each difference.
    """
    record = {"script": script, "args": args, "versions": versions()}
    atomic_files.make_folder(folder)
    refuse_other_run(folder, script, args, free, defaults)
    dist_util.once(lambda: _remove_partial_files(folder))
    dist_util.once(lambda: _write_record(folder / "args.json", record))


def _remove_partial_files(folder: Path) -> None:
    # What `atomic_write` was at when an earlier run was killed. A folder below with an args.json
    # of its own is another run, which may be writing right now.
    for place, folders, names in os.walk(folder):
        if "args.json" in names and Path(place) != folder:
            folders.clear()
            continue
        for name in names:
            if name[0] == "." and name.endswith(".partial"):
                Path(place, name).unlink(missing_ok=True)


def _write_record(path: Path, record: dict[str, Any]) -> None:
    if not path.exists() or read_args(path) != record:
        with atomic_files.atomic_write(path, "w") as file:
            json.dump(record, file, indent=2)


def refuse_other_run(
    folder: Path,
    script: str,
    args: dict[str, Any],
    free: set[str],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    advice: str = "",
) -> None:
    """Stop if a folder holds a run of other flags; writes nothing.

    Args:
        folder: the run folder, which need not exist.
        script: name of the command.
        args: its flags.
        free: names of flags that may differ when a run is continued.
        defaults: what a record means that is older than a flag.
        advice: what else can be done where flags differ.

    Raises:
        UserError: naming each difference.
    """
    if not (folder / "args.json").exists():
        return
    record = read_args(folder / "args.json")
    if record.get("script") != script:
        raise ArgumentError(
            "out_dir",
            f"{folder} holds a run of {record.get('script')!r}, not of {script!r}; "
            "choose another folder",
        )
    before = {**defaults, **record["args"]}
    differing = {
        name: _difference(name, before[name], args[name])
        for name in args
        if name in before and name not in free and not _same(name, before[name], args[name])
    }
    if differing:
        alike = "weights" if all(name.endswith(WEIGHTS) for name in differing) else "flags"
        raise ArgumentError(
            "out_dir",
            f"{folder} holds a run of other {alike} ({'; '.join(differing.values())}); "
            f"give the same {alike} to continue it, or another folder{advice}",
        )


def _difference(name: str, before: Any, now: Any) -> str:
    if not name.endswith(WEIGHTS):
        return f"--{name} was {before!r}, is {now!r}"
    role, _, stage = name.removesuffix(WEIGHTS).partition(".")
    model = f"stage {stage}" if stage else f"the {role.replace('_', ' ')}"
    return f"the weights of {model} have changed since, sha256 {before:.8} then and {now:.8} now"


def _same(name: str, one: Any, other: Any) -> bool:
    if name.endswith(PATHS) and one and other:
        return os.path.realpath(one) == os.path.realpath(other)
    return one == other


def read_args(path: Path) -> dict[str, Any]:
    """Read an `args.json`.

    Raises:
        UserError: if it is not JSON with an "args" object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record["args"], dict):
            return record
        raise TypeError(f'"args" is a {type(record["args"]).__name__}')
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected JSON with an 'args' object, got {error!r}") from None
