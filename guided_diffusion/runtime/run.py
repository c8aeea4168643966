"""The run folder: what was asked (`args.json`), with which versions, and files written whole.

A file appears under its name only when it is complete: written beside it, fsynced, then renamed.
To resume a run, run the same command again; a folder that was made by other flags is refused.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import torch as th
from numpy.lib.format import open_memmap

from ..config import flags
from ..errors import ArgumentError, UserError
from . import dist_util, logger

VERSION = "0.1.0"
PATHS = ("_dir", "_path", "_model", "_checkpoint")  # ends of the names of flags that name a place
WEIGHTS = ".sha256"  # end of the names under which a record tells the weights of its models
INTERRUPTED = 130  # exit code, as shells have it
GOES_ON = "interrupted; the same command again goes on"
STARTS_ANEW = "interrupted; nothing to go on from, the same command again starts anew"
AT_ONCE = (
    "interrupted at once, without what was not yet saved; the same command again goes on from the "
    "last save"
)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a file that replaces `path` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(
            partial, mode, encoding=encoding, newline=None if encoding is None else ""
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file whole, unless it holds just that already."""
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path) as file:
            file.write(content)


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {
        "guided_diffusion": VERSION,
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
    make_folder(folder)
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


def reserve(file: IO, size: int, flag: str, elsewhere: str = "") -> IO:
    """Give an empty file its size on the disk, so that mapping it into memory cannot fail later.

    Args:
        file: open for writing.
        size: bytes.
        flag: what to name where the disk is full.
        elsewhere: how to have the file on another disk.

    Raises:
        UserError: if the disk has no room for it.
    """
    try:
        # A sparse file on a full disk ends the process with a bus error.
        (getattr(os, "posix_fallocate", None) or _grow)(file.fileno(), 0, size)
    except OSError as error:
        raise ArgumentError(
            flag,
            f"{size / 1e9:.2f} GB of disk are needed ({error.strerror}); make room{elsewhere}",
        ) from None
    return file


def create_array(path: Path, dtype: Any, shape: Sequence[int], flag: str) -> None:
    """Create an .npy file of zeros, which is there at its full size or not at all.

    Args:
        path: the file.
        dtype: of the array.
        shape: of the array.
        flag: what to name where the disk is full.

    Raises:
        UserError: if the disk has no room for it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        open_memmap(partial, "w+", dtype=dtype, shape=tuple(shape))
        with open(partial, "r+b") as file:
            reserve(file, partial.stat().st_size, flag)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _grow(descriptor: int, offset: int, size: int) -> None:
    os.ftruncate(descriptor, offset + size)


def _write_record(path: Path, record: dict[str, Any]) -> None:
    if not path.exists() or read_args(path) != record:
        with atomic_write(path, "w") as file:
            json.dump(record, file, indent=2)


def make_folder(folder: Path, flag: str = "out_dir") -> None:
    """Make a folder to write to, once for all ranks.

    Args:
        folder: what to make, where absent.
        flag: what named it.

    Raises:
        UserError: if nothing can be written there.
    """
    dist_util.once(lambda: _make(folder, flag))


def _make(folder: Path, flag: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ArgumentError(
            flag, f"expected a folder to write to, got {folder} ({error.strerror})"
        ) from None


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


def generator(*seed: int) -> np.random.Generator:
    """Return the random generator of one purpose, a function of the numbers alone.

    Args:
        *seed: the base seed, the number of the purpose, and what tells its draws apart.

    Raises:
        UserError: if the base seed is negative.
    """
    if seed[0] < 0:
        raise ArgumentError("seed", f"expected 0 or above, got {seed[0]}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


class ImageNoise:
    """Standard normal noise of which each image's share depends on its own index alone.

    Args:
        seed: the base seed.
        indices: global index of each image of the batch.
        purpose: what it is drawn for: DRAWING, ENLARGING or MEASURING an image.
    """

    DRAWING, ENLARGING, MEASURING = 3, 7, 8

    def __init__(self, seed: int, indices: Sequence[int], purpose: int = DRAWING) -> None:
        self.generators = [generator(seed, purpose, index) for index in indices]

    def draw(self, shape: Sequence[int]) -> th.Tensor:
        """Return the next noise [N, *shape], float32 on the CPU."""
        drawn = [g.standard_normal(tuple(shape), dtype=np.float32) for g in self.generators]
        return th.from_numpy(np.stack(drawn))

    def __call__(self, x: th.Tensor) -> th.Tensor:
        """Return the next noise in the shape and on the device of states x [N, ...]."""
        return self.draw(x.shape[1:]).to(x)


def progress(items: Iterable, **options: Any) -> Iterable:
    """Wrap items in tqdm's bar with these options, seen where rank 0 has a terminal."""
    from tqdm.auto import tqdm

    return tqdm(items, disable=True if dist_util.rank() else None, **options)


def inner_progress(steps: Iterable, desc: str) -> Iterable:
    """Wrap the steps of one item in a bar below the main one, which goes when they are done."""
    return progress(steps, desc=desc, unit="step", leave=False, position=1)


class StopSignal:
    """Whether Ctrl-C or a batch system has asked this process to end, inside its `with` block.

    The first request is noted, so that the work at hand can be finished and saved. A second one
    changes nothing, as batch systems send theirs twice and people press Ctrl-C twice; a third one
    ends the process at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._again = False

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._note) for number in _STOPPING}
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self._again:
            raise KeyboardInterrupt(AT_ONCE)
        self.asked, self._again = True, self.asked

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


_STOPPING = (signal.SIGINT, signal.SIGTERM)


def command(
    main: Callable[[Sequence[str] | None], None] | None = None, *, interrupted: str = GOES_ON
) -> Callable[..., Any]:
    """Turn user mistakes of a script's main into one line on stderr and exit code 2.

    Args:
        main: of the script; None: to decorate it with what follows.
        interrupted: the line of an interruption, by whether the command goes on from what is there.
    """
    if main is None:
        return functools.partial(command, interrupted=interrupted)

    def wrapped(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except UserError as error:
            print("error:", *error.report.splitlines(), file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        except OSError as error:  # a full disk, a folder without permission
            if error.strerror is None:
                raise
            place = f"{error.filename}: " if error.filename else ""
            print(f"error: {place}{error.strerror}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt as error:
            print(str(error) or interrupted, file=sys.stderr, flush=True)
            raise SystemExit(INTERRUPTED) from None
        finally:
            with contextlib.suppress(OSError):  # the disk may be full
                logger.reset()
            dist_util.cleanup()

    return wrapped
