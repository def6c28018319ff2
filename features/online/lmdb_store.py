"""The online store in LMDB files, shared by the processes of one machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import lmdb

from cluster.errors import StoreUnavailable

# A range of addresses, not memory or disk: LMDB files grow as they are written.
_MAP_BYTES = 1 << 36
_MAX_READERS = 512
_DAMAGES = (
    lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError,
)  # fmt: skip
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LmdbStore:
    """One LMDB environment. Many processes of one machine may read while one writes; writers wait for each other.

    Each write is one transaction that is on disk when the call returns, so that a loss of power leaves the state before
    or after it, never a watermark without its states.

    Raises:
        StoreUnavailable: The files are damaged, or cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with self._translate_errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(str(folder), map_size=_MAP_BYTES, max_readers=_MAX_READERS)
            try:
                self._check()
                # Slots of killed readers would keep the pages that they read from being used again.
                self._env.reader_check()
            except BaseException:
                self._env.close()
                raise

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        # Without a context manager for errors: this is on the path of each request.
        try:
            with self._env.begin() as transaction:
                get = transaction.get
                return [get(key) for key in keys]
        except lmdb.Error as error:
            raise self._store_error(error) from error

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._translate_errors(), self._env.begin(write=True) as transaction:
            _put(transaction, values)

    def update(
        self, name: bytes, keys: Sequence[bytes], change: Callable[[list[bytes | None]], Mapping[bytes, bytes]]
    ) -> None:
        # Whatever the name: LMDB has one writer at a time.
        with self._translate_errors(), self._env.begin(write=True) as transaction:
            _put(transaction, change([transaction.get(key) for key in keys]))

    def keys(self, prefix: bytes) -> list[bytes]:
        with self._translate_errors(), self._env.begin() as transaction, transaction.cursor() as cursor:
            keys: list[bytes] = []
            if cursor.set_range(prefix):
                for key in cursor.iternext(values=False):
                    if not key.startswith(prefix):
                        break
                    keys.append(bytes(key))
            return keys

    def delete(self, keys: Iterable[bytes]) -> None:
        with self._translate_errors(), self._env.begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key)

    def close(self) -> None:
        """Close the files. A store that ``open_store`` returned stays open."""
        self._env.close()

    def _check(self) -> None:
        """Read all pages once after each boot, and whenever the file is shorter than its header says.

        Damaged pages can end the process that reads them, so that another process does.
        """
        data, record = self._folder / "data.mdb", self._folder / "checked"
        file, pages = data.stat(), self._env.info()["last_pgno"] + 1
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        version = f"{boot} {file.st_dev} {file.st_ino}"
        whole = file.st_size >= pages * self._env.stat()["psize"]
        if whole and boot and record.exists() and record.read_text() == version:
            return
        script = str(Path(__file__).with_name("lmdb_check.py"))
        # -P: modules beside the script must not hide others.
        command = [sys.executable, "-P", script, str(self._folder), str(_MAP_BYTES), str(_MAX_READERS)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            lines = result.stderr.strip().splitlines() or [f"a page cannot be read (exit status {result.returncode})"]
            raise StoreUnavailable("store.damaged", folder=str(self._folder), reason=lines[-1])
        record.write_text(version)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise self._store_error(error) from error

    def _store_error(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, _DAMAGES):
            return StoreUnavailable("store.damaged", folder=str(self._folder), reason=str(error))
        return StoreUnavailable("store.failed", address=str(self._folder), reason=str(error))


def _put(transaction: lmdb.Transaction, values: Mapping[bytes, bytes]) -> None:
    with transaction.cursor() as cursor:
        # In page order, so that each page is written once.
        cursor.putmulti(sorted(values.items(), key=itemgetter(0)))
