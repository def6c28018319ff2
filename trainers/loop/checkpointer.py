"""Checkpoints of a training run: one file each, written whole or not at all, while training goes on.

A file is the SHA-256 of what follows, and that is what torch.save writes. It is read back without unpickling objects. A file that
cannot be read, or whose sum is wrong because the machine stopped while it was written, is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch
from pyarrow import fs

from cluster.errors import RayloopError
from cluster.files import atomic_write

KEPT = 2

_SUM_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".checkpoint"

Saved = Mapping[str, Any]


class Checkpoints:
    """The checkpoints in a folder: a path, or a URI that pyarrow.fs knows (s3, gs, hdfs, file). The newest two are kept.

    ``origin`` is a folder whose newest checkpoint is gone on from while this one has none; nothing is written there.
    """

    def __init__(self, folder: str, origin: str = "") -> None:
        self._fs, self._folder = fs.FileSystem.from_uri(folder)
        self._origin = origin
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def newest(self) -> bytes | None:
        """The newest whole checkpoint, as ``loaded`` takes it; None when there is none."""
        for path in reversed(self._paths()):
            with self._fs.open_input_stream(path) as file:
                found: bytes = file.read()
            if hashlib.sha256(found[_SUM_BYTES:]).digest() == found[:_SUM_BYTES]:
                return found[_SUM_BYTES:]
        return Checkpoints(self._origin).newest() if self._origin else None

    def save(self, step: int, saved: Saved) -> None:
        """Write in the background what nobody changes any more. Waits for the write before; raises what went wrong with that."""
        self.wait()
        self._writing = threading.Thread(target=self._guarded, args=(step, saved), daemon=True)
        self._writing.start()

    def wait(self) -> None:
        """Until nothing is being written. Raises RayloopError for a write that failed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise RayloopError(
                f"the checkpoint in {self._folder} cannot be written: {failure}", "make room, or set another folder"
            ) from failure

    def clear(self) -> None:
        """Remove the folder and all that is in it; absent is fine."""
        self.wait()
        if self._fs.get_file_info(self._folder).type != fs.FileType.NotFound:
            self._fs.delete_dir(self._folder)

    def _guarded(self, step: int, saved: Saved) -> None:
        # It is raised where training can hear of it: in the next ``wait``.
        try:
            self._write(step, saved)
        except (OSError, pa.ArrowException) as error:
            self._failure = error

    def _write(self, step: int, saved: Saved) -> None:
        buffer = io.BytesIO()
        torch.save(dict(saved), buffer)
        body = buffer.getbuffer()
        # Two writers may be at it when a worker that was given up still lives.
        parts = (hashlib.sha256(body).digest(), body)
        atomic_write(self._fs, self._folder, f"{step:012d}{_SUFFIX}", parts)
        for old in self._paths()[:-KEPT]:
            self._fs.delete_file(old)

    def _paths(self) -> list[str]:
        """Finished checkpoints, oldest first."""
        found = self._fs.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        return sorted(info.path for info in found if info.path.endswith(_SUFFIX))


def loaded(body: bytes) -> dict[str, Any]:
    """What was saved."""
    found: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return found
