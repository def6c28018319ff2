"""Servers that a command starts and that outlive it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.node.ports import listens
from cluster.permissions import PRIVATE_UMASK

START_S = 120.0
"""Within which a server must answer."""
_POLL_S = 0.1

# Python warns about a child process that is garbage-collected while it runs.
_started: list[subprocess.Popen[bytes]] = []


def start_server(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, which Ctrl-C in the terminal does not reach.

    Args:
        command: Program and arguments.
        environment: All variables of the server.
        log: File for its output.
        folder: Its working directory; None: this process's.
    """
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, cwd=folder, umask=PRIVATE_UMASK,
        )  # fmt: skip
    _started.append(process)
    return process


def await_server(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a server accepts connections to a port of this machine; False if it ends first, or is late."""
    deadline = time.monotonic() + START_S
    while not listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
