"""A wall clock of a host's own: the library that its programs load, and the file that says how far it is off."""

from __future__ import annotations

import mmap
import shutil
import subprocess
from pathlib import Path

OFFSET = "/run/clock"
"""On the host: nanoseconds that its clock is ahead of the machine's."""
COMPILER = "cc"


def available() -> bool:
    """Whether this machine has the compiler that the library needs."""
    return shutil.which(COMPILER) is not None


def build(folder: Path) -> Path:
    """Return the library's path in a run's folder; the first call compiles it."""
    library = folder / "clock.so"
    if not library.exists():
        options = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f'-DCLOCK="{OFFSET}"', "-o", str(library))
        subprocess.run([COMPILER, *options, str(Path(__file__).with_name("clock.c")), "-ldl"], check=True)
    return library


def write_offset(file: Path, seconds: float) -> None:
    # In one store, which no reader sees half of.
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as mapped, memoryview(mapped).cast("q") as offset:
        offset[0] = round(seconds * 1e9)
