"""Checkpoints of a training run: one file each, written atomically and in the background.

A file is the SHA-256 of its body, and the body, which torch.save writes. It is read without unpickling objects. A file
whose checksum is wrong, because the machine stopped during the write, is skipped for the one before.
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
from cluster.files import atomic_write, open_filesystem

KEEP_CHECKPOINTS = 2
"""Newest checkpoints that stay in the folder."""

_CHECKSUM_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".checkpoint"


class Checkpointer:
    """Reads and writes the checkpoints in a folder, and deletes all but the newest two.

    Args:
        folder: A path, or a URI that pyarrow.fs supports (s3, gs, hdfs, file).
        origin: A folder whose newest checkpoint is read as long as ``folder`` has none; nothing is written there.
    """

    def __init__(self, folder: str, origin: str = "") -> None:
        self._fs, self._folder = open_filesystem(folder)
        self._origin = origin
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None

    def read_newest(self) -> bytes | None:
        """Body of the newest intact checkpoint, for ``load_checkpoint``; None if there is none."""
        for path in reversed(self._paths()):
            with self._fs.open_input_stream(path) as file:
                content: bytes = file.read()
            if hashlib.sha256(content[_CHECKSUM_BYTES:]).digest() == content[:_CHECKSUM_BYTES]:
                return content[_CHECKSUM_BYTES:]
        return Checkpointer(self._origin).read_newest() if self._origin else None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint in the background, after the previous write has ended.

        Args:
            step: Steps done so far, which order the checkpoints.
            state: The state; it must not change any more.

        Raises:
            RayloopError: The previous write failed.
        """
        self.wait()
        self._writer = threading.Thread(target=self._write, args=(step, state), daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Wait for the write in progress.

        Raises:
            RayloopError: It failed.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise RayloopError("rayloop.checkpoint_not_written", folder=self._folder, reason=str(failure)) from failure

    def clear(self) -> None:
        """Delete the folder with its content, if it exists."""
        self.wait()
        if self._fs.get_file_info(self._folder).type != fs.FileType.NotFound:
            self._fs.delete_dir(self._folder)

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        body = buffer.getbuffer()
        try:
            # Atomic, because a worker that Ray has given up on may still write the same file.
            atomic_write(self._fs, self._folder, f"{step:012d}{_SUFFIX}", (hashlib.sha256(body).digest(), body))
            for old in self._paths()[:-KEEP_CHECKPOINTS]:
                self._fs.delete_file(old)
        # The next ``wait`` raises the failure, in the training thread.
        except (OSError, pa.ArrowException) as error:
            self._failure = error

    def _paths(self) -> list[str]:
        """Complete checkpoints, oldest first."""
        files = self._fs.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        return sorted(info.path for info in files if info.path.endswith(_SUFFIX))


def load_checkpoint(body: bytes) -> dict[str, Any]:
    """The state in a checkpoint's body."""
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
