"""A door with replicas that are not real, some with gRPC."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx

from benchmarks.cluster.door_process import Door
from benchmarks.cluster.replicas import MODEL, FakeReplica, FakeServe, Loop
from cluster.door.membership import Target
from deployments.protocol import inference_pb2
from deployments.protocol.inference_pb import add_inference_service
from tests.factories.until import until


class DoorSetup:
    """A door with replicas of a model and of the root application."""

    def __init__(self, door: Door, serve: FakeServe, loop: Loop) -> None:
        self.door, self.serve, self.loop = door, serve, loop
        self.port = door.settings.serve_port
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10.0)

    def start_replica(self, name: str = "r") -> FakeReplica:
        return self.loop.run(FakeReplica(name).start())

    def kill_leader(self) -> None:
        killed = self.door.leader
        os.kill(killed, signal.SIGKILL)
        until(lambda: self.door.leader not in (0, killed), "the standby takes over")

    def serve_model(self, *replicas: FakeReplica) -> None:
        self.serve.models[MODEL] = [replica.replica for replica in replicas]
        until(lambda: self.door.taking() >= {r.port for r in replicas}, "the door has the replicas")


class _Servicer:
    """Says which application answers, and for which one it was called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerMetadataResponse(name=self._name)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ModelReadyResponse(ready=request.name == self._name)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ModelMetadataResponse(name=request.name, platform=self._name)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        application = dict(context.invocation_metadata()).get("application")
        names = {"model_name": request.model_name, "model_version": self._name}
        return inference_pb2.ModelInferResponse(**names, id=str(application))


@contextlib.contextmanager
def grpc_replica(name: str, address: str = "127.0.0.1:0") -> Iterator[Target]:
    """The address of a gRPC server that answers as a replica of that application does."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_inference_service(_Servicer(name), server)
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield Target(host="127.0.0.1", port=port)
    finally:
        server.stop(None).wait()
