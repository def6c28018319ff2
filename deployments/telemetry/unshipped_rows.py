"""Counts the rows that a replica has acknowledged and not yet shipped, in a file that outlives it.

The rows themselves are lost when a replica is killed, but their number is not: the counts are in a memory-mapped file,
in the node's page cache, which survives the process (but not the node). A replica holds a lock on its file while it
runs, so a file whose lock is free belongs to a dead replica.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cluster.errors import DataError
from cluster.settings import Settings
from cluster.values import readable_version

KINDS = ("predictions", "labels")
SCHEMA_VERSION = 2
"""Format of a counter file. It follows the counts, where version 1 ends; kinds of later versions follow it."""

_WORD = 8
_SIZE = _WORD * (len(KINDS) + 1)

_log = logging.getLogger(__name__)


class UnshippedCounter:
    """Counter of one replica. ``add`` may be called from any thread."""

    def __init__(self, folder: Path, replica: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / replica
        hidden = folder / f".{replica}"
        self._file = hidden.open("w+b")
        self._file.truncate(_SIZE)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._counts = memoryview(mmap.mmap(self._file.fileno(), _SIZE)).cast("q")
        self._counts[len(KINDS)] = SCHEMA_VERSION
        self._lock = threading.Lock()
        # The file becomes visible to other replicas only once it is locked.
        hidden.rename(self._path)

    def add(self, kind: str, rows: int) -> None:
        """Add rows of one kind; a negative number removes rows that were dropped and are counted elsewhere."""
        with self._lock:
            self._counts[KINDS.index(kind)] += rows

    def close(self) -> None:
        """Remove the file: everything was shipped. Later counts have no effect."""
        self._path.unlink(missing_ok=True)
        self._file.close()


class Remainder:
    """Rows by kind that a dead replica left unshipped.

    Raises:
        DataError: The file has a newer format version.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self.replica = path.name
        data = file.read(_SIZE)
        words = memoryview(data).cast("q")
        readable_version(words[len(KINDS)] if len(data) == _SIZE else 1, SCHEMA_VERSION, f"row counter {path}")
        self.rows = dict(zip(KINDS, words, strict=False))

    def forget(self) -> None:
        """Remove the file once its rows are counted as lost."""
        self._path.unlink(missing_ok=True)


def counter_folder(settings: Settings, model: str) -> Path:
    """Folder with the counters of the replicas of ``model`` on this node."""
    return settings.home / "tallies" / model


def read_remainders(folder: Path) -> Iterator[Remainder]:
    """Yield the remainder of each dead replica; it is locked against other replicas while the caller handles it.

    Files of a newer format version are left to replicas that know it.
    """
    for path in sorted(folder.glob("[!.]*")):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            # Another replica has just settled it, or its owner has closed it.
            continue
        with file:
            if not _is_unlocked(file):
                continue
            try:
                remainder = Remainder(path, file)
            except DataError as error:
                _log.warning("%s", error)
                continue
            yield remainder


def _is_unlocked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
