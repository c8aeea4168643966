"""Whole checkpoints: the checksums inside an archive, and a digest beside each file.

`model000100.pt.sha256` holds the line that `sha256sum model000100.pt` prints, so that `sha256sum
-c` checks it. It is removed before its checkpoint is replaced and written after, so that a kill in
between leaves a checkpoint without a digest, never one with a digest of other content. Where
another program replaced the checkpoint later, the checksums inside decide.
"""

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from ..errors import DamagedFileError, UserError
from ..runtime import atomic_files, dist_util, input_files, logger
from . import archive_layout

DIGEST = ".sha256"
ARCHIVE = b"PK\x03\x04"
LARGEST_DIGEST_FILE = 2**16  # bytes
MOST_UNPACKED = 20  # times the size of the file; torch stores tensors without compression


class HashingWriter:
    """A file open for writing that notes the SHA-256 of what is written, in order.

    Attributes:
        problem: error of the first write that failed, of which torch tells nothing; None: none.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.problem: OSError | None = None

    def write(self, content: Any) -> int:
        """Write bytes, and note them."""
        self.sha256.update(content)
        try:
            return self.file.write(content)
        except OSError as error:
            self.problem = self.problem or error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


def digest_file(path: Path) -> Path:
    """Return the path of the digest of a checkpoint."""
    return path.with_name(path.name + DIGEST)


def write_digest(path: Path, sha256: str) -> None:
    """Write the digest of a checkpoint beside it, in the format of `sha256sum`."""
    with atomic_files.atomic_write(digest_file(path), "w") as file:
        file.write(f"{sha256}  {path.name}\n")


def recorded_digest(path: Path) -> str | None:
    """Return the digest that lies beside a file, None if there is none.

    Raises:
        UserError: if what lies there is no digest of the file.
    """
    beside = digest_file(path)
    try:
        text = input_files.read_bytes(beside, LARGEST_DIGEST_FILE).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    line_of = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *](.*))?")
    lines = (line_of.fullmatch(line) for line in text.splitlines())
    found = {(match[2] or path.name).rpartition("/")[2]: match[1] for match in lines if match}
    if path.name not in found:
        raise UserError(
            f"{beside}: expected the line that `sha256sum {path.name}` prints, got something "
            "else; delete it to load the checkpoint without it"
        )
    return found[path.name].lower()


def read_whole(path: str | Path) -> tuple[bytes, str, str | None]:
    """Read a checkpoint, which may be remote.

    Returns:
        its content, the content's SHA-256 in hexadecimal, and the one beside it (None: no digest).

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it cannot be read.
    """
    if "://" in str(path):
        try:
            with dist_util.open_bytes(path) as file:
                content = file.read()
        except FileNotFoundError:
            raise
        except Exception as error:  # of many kinds of remote storage
            raise input_files.unreadable(path, error) from None
        return content, hashlib.sha256(content).hexdigest(), None
    for _ in range(2):  # the first reading may have met a training that just replaces the file
        recorded, content = recorded_digest(Path(path)), input_files.read_bytes(path)
        found = hashlib.sha256(content).hexdigest()
        if recorded in (None, found):
            break
    return content, found, recorded


def check_content(path: str | Path, content: bytes, found: str, recorded: str | None) -> None:
    """Check that nothing in a checkpoint changed since it was written; see `read_whole`.

    Raises:
        DamagedFileError: if it is empty, or differs from its digest or from its own checksums.
    """
    if not content:
        raise DamagedFileError(f"{path}: expected a whole checkpoint, got an empty file")
    if content.startswith(ARCHIVE):
        try:
            check_archive(content)
        except ValueError as error:
            expected = "expected a whole checkpoint, got a file that cannot be read"
            raise DamagedFileError(f"{path}: {expected} ({error})") from None
    if recorded in (None, found):
        return
    beside = digest_file(Path(path))
    if _was_replaced(Path(path), beside, content):
        logger.warn(
            f"{path}: was replaced after {beside.name} was written; taken as it is, since its own "
            f"checksums are right (`sha256sum {Path(path).name} > {beside.name}` renews the digest)"
        )
        return
    raise DamagedFileError(
        f"{path}: damaged: its SHA-256 is {found:.8}..., but {beside.name} says {recorded:.8}...; "
        f"restore it from a copy, or delete {beside.name} if you replaced the checkpoint yourself"
    )


def _was_replaced(path: Path, beside: Path, content: bytes) -> bool:
    # By a program that writes no digest. Damage would show in the archive, whatever byte it hit.
    newer = path.stat().st_mtime_ns > beside.stat().st_mtime_ns
    return newer and content.startswith(ARCHIVE) and archive_layout.is_as_written(content)


def check_archive(content: bytes) -> None:
    """Check the sizes and checksums of all entries of a .pt archive.

    A program can tell torch to write no checksums; such an archive has zeros in their place.

    Raises:
        ValueError: saying in a few words what is wrong.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except Exception:  # on damaged bytes zipfile raises almost anything
        raise ValueError("it is cut off, or damaged at its end") from None
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MOST_UNPACKED * len(content):
        raise ValueError(f"its {len(content):,} bytes claim to hold {unpacked:,}")
    if not any(entry.CRC for entry in entries):
        return
    try:
        bad = archive.testzip()
    except MemoryError:
        raise
    except Exception:
        bad = "one of its parts"
    if bad:
        raise ValueError(f"damaged: the checksum of {bad!r} is wrong")
