"""A replica that is not real, in a host: ``python -m tests.hosts.door_replica NAME HOST PORT GRPC_PORT``.

SIGUSR1: it fails its check and still answers, as one of Serve's that drains.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from benchmarks.cluster.replicas import FakeReplica
from tests.factories.door import grpc_replica


async def run(name: str, host: str, port: int) -> None:
    """Answer until the process is killed."""
    replica = await FakeReplica(name).start(host, port)
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, leave.set)
    await leave.wait()
    replica.leaving = True
    await asyncio.Event().wait()


if __name__ == "__main__":
    own_name, address, http_port, grpc_port = sys.argv[1:]
    with grpc_replica(own_name, f"{address}:{grpc_port}"):
        asyncio.run(run(own_name, address, int(http_port)))
