"""How many acknowledged rows a replica owes the log, in a file that outlives it.

Rows that a killed replica had acknowledged and not shipped are gone. How many there were is not: the counts are in a
mapped file, in the page cache of the node, which the end of a process leaves alone. (That of the whole node does not.)
A replica holds a lock on its file as long as it lives, so a file whose lock can be had is a dead one's.
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
"""Of a tally; it stands behind the counts, where version 1 ends. Kinds of later versions come behind it."""

_WORD = 8
_SIZE = _WORD * (len(KINDS) + 1)

_log = logging.getLogger(__name__)


class Tally:
    """One replica's. ``add`` may be called from any thread."""

    def __init__(self, folder: Path, replica: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / replica
        made = folder / f".{replica}"
        self._file = made.open("w+b")
        self._file.truncate(_SIZE)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._counts = memoryview(mmap.mmap(self._file.fileno(), _SIZE)).cast("q")
        self._counts[len(KINDS)] = SCHEMA_VERSION
        self._lock = threading.Lock()
        # Nobody sees the file before it is locked.
        made.rename(self._path)

    def add(self, kind: str, rows: int) -> None:
        """Owe the log so many rows more; of a negative number, less: they are given up, and counted elsewhere."""
        with self._lock:
            self._counts[KINDS.index(kind)] += rows

    def close(self) -> None:
        """Nothing is owed any more. Later counts go nowhere."""
        self._path.unlink(missing_ok=True)
        self._file.close()


class Debt:
    """What a dead replica owed: rows by kind. Raises DataError for a tally of a newer version."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self.replica = path.name
        data = file.read(_SIZE)
        words = memoryview(data).cast("q")
        readable_version(words[len(KINDS)] if len(data) == _SIZE else 1, SCHEMA_VERSION, f"tally {path}")
        self.owed = dict(zip(KINDS, words, strict=False))

    def forget(self) -> None:
        """It is settled."""
        self._path.unlink(missing_ok=True)


def folder(settings: Settings, model: str) -> Path:
    """Where the replicas of ``model`` on this node keep their tallies."""
    return settings.home / "tallies" / model


def debts(folder: Path) -> Iterator[Debt]:
    """Of replicas that are dead. While a debt is looked at, nobody else gets it.

    One of a newer version is left to a replica that knows it.
    """
    for path in sorted(folder.glob("[!.]*")):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            # Settled by another replica a moment ago, or closed.
            continue
        with file:
            if not _dead(file):
                continue
            try:
                debt = Debt(path, file)
            except DataError as error:
                _log.warning("%s", error)
                continue
            yield debt


def _dead(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
