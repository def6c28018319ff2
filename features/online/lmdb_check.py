"""A script that reads all pages of an LMDB environment: python lmdb_check.py FOLDER MAP_BYTES MAX_READERS."""

from __future__ import annotations

import os
import sys

import lmdb


def main(folder: str, map_bytes: int, max_readers: int) -> None:
    """Raise lmdb.Error, or end by a signal, when pages are damaged or missing."""
    with (
        lmdb.open(folder, map_size=map_bytes, max_readers=max_readers, create=False) as env,
        open(os.devnull, "wb") as nothing,
    ):
        # A compacting copy visits every page in use and counts them.
        env.copyfd(nothing.fileno(), compact=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
