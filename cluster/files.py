"""Files that are there as a whole or not at all, wherever pyarrow.fs can write."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from pyarrow import fs

Bytes = bytes | bytearray | memoryview


def atomic_write(filesystem: fs.FileSystem, folder: str, name: str, parts: Iterable[Bytes]) -> None:
    """Write ``parts`` one after the other as ``folder``/``name``, the folder being made where there is none.

    The file has a name of its own, which ends in something else, until it is whole: two writers do not meet, and who lists
    the folder by suffix does not see it. Raises OSError or pyarrow's ArrowException.
    """
    filesystem.create_dir(folder, recursive=True)
    path = f"{folder}/{name}"
    unfinished = f"{path}.{uuid.uuid4().hex[:8]}"
    with filesystem.open_output_stream(unfinished) as file:
        for part in parts:
            file.write(part)
    filesystem.move(unfinished, path)
