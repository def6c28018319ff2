"""Atomic writes to any file system that pyarrow.fs supports."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from pyarrow import fs

Bytes = bytes | bytearray | memoryview


def atomic_write(filesystem: fs.FileSystem, folder: str, name: str, parts: Iterable[Bytes]) -> None:
    """Write a file that appears under its name only when it is complete.

    Until then it has a unique name with another ending, so that concurrent writers do not collide and a listing by
    suffix does not include it.

    Args:
        filesystem: Where to write.
        folder: Folder of the file; created when it does not exist.
        name: Name of the file.
        parts: Its content, in order.

    Raises:
        OSError: The file system refuses the write; pyarrow may also raise ArrowException.
    """
    filesystem.create_dir(folder, recursive=True)
    path = f"{folder}/{name}"
    unfinished = f"{path}.{uuid.uuid4().hex[:8]}"
    with filesystem.open_output_stream(unfinished) as file:
        for part in parts:
            file.write(part)
    filesystem.move(unfinished, path)
