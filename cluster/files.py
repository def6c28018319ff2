"""Files on any file system that pyarrow.fs supports: where they are, and atomic writes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from pyarrow import fs

from cluster.env import s3_endpoint

Bytes = bytes | bytearray | memoryview


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it."""
    if uri.startswith("s3://") and (endpoint := s3_endpoint()):
        # Left to find the variable itself, Arrow takes BUCKET.HOST for the name of the server.
        return fs.S3FileSystem(endpoint_override=endpoint), uri.removeprefix("s3://")
    return fs.FileSystem.from_uri(uri)


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
