"""HTTP, gRPC and the OpenAPI document: statuses, headers and fields of every route's answers.

A model server answers as a replica does, over real connections to uvicorn; only its telemetry is dropped. What Serve
itself answers, such as a path that no application has, is Ray's and not pinned.

The OpenAPI document is pinned with its descriptions: one that is improved on purpose changes its golden files in the
same commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
import uvicorn
from google.protobuf.json_format import MessageToDict
from onnx import TensorProto, helper
from uvicorn.protocols.http import auto

from cluster.values import ModelVersion, Task
from deployments.auth.key_store import KeyStore
from deployments.http_messages import HttpRequest, HttpResponse
from deployments.inference import engine
from deployments.ingress.model_app import ModelServer
from deployments.ingress.root_app import RootApp
from deployments.ingress.uvicorn_protocol import IngressRoute, install_route
from deployments.protocol import inference_pb2
from deployments.protocol.binary_tensors import JSON_LENGTH_HEADER
from deployments.protocol.inference_pb import METHODS, SERVICE
from deployments.protocol.openapi import build_openapi
from deployments.serve_schema import RequestLimits, ServerConfig
from deployments.telemetry.reporter import Reporter
from features.definitions import FeatureSet
from features.manifest import MODEL_FILE
from tests.factories.golden import samples
from tests.factories.golden.files import golden

LIMITS = RequestLimits(body_bytes=4000, rows=4)
ROW = {"distance": 0.0, "carrier": "AA", "departs": "2024-05-01T10:00:00Z"}
BASE = "/v2/models/trips"
DEADLINE_S = 20.0
# Uvicorn's, and those whose values are of no meaning.
_NOT_OURS = ("date", "server", "connection")


def infer_body(rows: int = 1, **change: Any) -> dict[str, Any]:
    inputs: list[dict[str, Any]] = [
        {"name": "distance", "shape": [rows], "datatype": "FP64", "data": [0.0] * rows},
        {"name": "carrier", "shape": [rows], "datatype": "BYTES", "data": ["AA"] * rows},
        {"name": "departs", "shape": [rows], "datatype": "BYTES", "data": ["2024-05-01T10:00:00Z"] * rows},
    ]
    inputs[0] |= change
    return {"id": "mine", "inputs": inputs}


REQUESTS: dict[str, tuple[str, str, Any]] = {
    "metadata": ("GET", BASE, None),
    "metadata of a version": ("GET", f"{BASE}/versions/7", None),
    "ready": ("GET", f"{BASE}/ready", None),
    "openapi": ("GET", f"{BASE}/openapi.json", None),
    "infer": ("POST", f"{BASE}/infer", infer_body(2)),
    "infer with a version": ("POST", f"{BASE}/versions/7/infer", infer_body()),
    "infer with outputs": ("POST", f"{BASE}/infer", {**infer_body(), "outputs": [{"name": "score"}]}),
    "infer with binary outputs": (
        "POST",
        f"{BASE}/infer",
        {**infer_body(), "outputs": [{"name": "score", "parameters": {"binary_data": True}}]},
    ),
    "invocations of records": ("POST", f"{BASE}/invocations", {"dataframe_records": [ROW]}),
    "invocations of a split": (
        "POST",
        f"{BASE}/invocations",
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}},
    ),
    "invocations of instances": ("POST", f"{BASE}/invocations", {"instances": [ROW]}),
    "invocations of inputs": ("POST", f"{BASE}/invocations", {"inputs": {name: [v] for name, v in ROW.items()}}),
    "409 explain without an explainer": ("POST", f"{BASE}/explain", infer_body()),
    "409 infer without an explainer": ("POST", f"{BASE}/infer", {**infer_body(), "parameters": {"explain": True}}),
    "400 an explain option": ("POST", f"{BASE}/infer", {**infer_body(), "parameters": {"explain": "no"}}),
    "feedback": ("POST", f"{BASE}/feedback", {"labels": [{"id": "a", "label": 1, "time": "2024-05-01T12:00:00Z"}]}),
    "400 no JSON": ("POST", f"{BASE}/infer", b"{"),
    "400 no inputs": ("POST", f"{BASE}/infer", {}),
    "400 a value": ("POST", f"{BASE}/infer", infer_body(data=["far"])),
    "400 a shape": ("POST", f"{BASE}/infer", infer_body(shape=[2])),
    "400 a datatype": ("POST", f"{BASE}/infer", infer_body(datatype="INT3")),
    "400 a name": ("POST", f"{BASE}/infer", infer_body(name="height")),
    "400 an output": ("POST", f"{BASE}/infer", {**infer_body(), "outputs": [{"name": "other"}]}),
    "400 an id": ("POST", f"{BASE}/infer", {**infer_body(), "id": "bad id"}),
    "400 invocations": ("POST", f"{BASE}/invocations", {}),
    "400 an instance": ("POST", f"{BASE}/invocations", {"instances": [{"distance": 1}]}),
    "400 a label": ("POST", f"{BASE}/feedback", {"labels": [{"id": "a", "label": 2}]}),
    "400 no labels": ("POST", f"{BASE}/feedback", {"labels": []}),
    "404 a path": ("GET", f"{BASE}/nothing", None),
    "404 a version": ("POST", f"{BASE}/versions/9/infer", infer_body()),
    "405 infer": ("GET", f"{BASE}/infer", None),
    "405 metadata": ("POST", BASE, {}),
    "413 rows": ("POST", f"{BASE}/infer", infer_body(5)),
    "413 body": ("POST", f"{BASE}/infer", b" " * 5000),
    "413 labels": ("POST", f"{BASE}/feedback", {"labels": [{"id": "a", "label": 1}] * 5}),
}
HEADERS: dict[str, dict[str, str]] = {
    "400 the variant": {"x-rayloop-variant": "other"},
    "400 the request id": {"x-request-id": "bad id"},
    "the variant": {"x-rayloop-variant": "champion", "x-rayloop-key": "anna", "x-request-id": "given"},
}


class _Silent:
    """Reports that go nowhere."""

    def __init__(self, model: str, under_way: Callable[[], int]) -> None: ...

    def record_predictions(self, *columns: object) -> None: ...

    def record_labels(self, rows: object) -> None: ...

    def record_response(self, method: str, status: int, seconds: float) -> None: ...

    def announce_predictions(self, rows: int) -> None: ...

    def record_dropped_copies(self, requests: int) -> None: ...

    def close(self, within_s: float) -> None: ...


def write_bundle(folder: Path) -> Path:
    """A bundle whose model is the sigmoid of its first number."""
    folder.mkdir()
    samples.MANIFEST.save(folder)
    first = helper.make_tensor("first", TensorProto.INT64, [], [0])
    nodes = [
        helper.make_node("Gather", ["numbers", "first"], ["distance"], axis=1),
        helper.make_node("Sigmoid", ["distance"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "first",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["rows", samples.ENCODER.width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows"])],
        [first],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / MODEL_FILE)
    return folder


def _own_class(deployment: Any) -> Any:
    """The class as it is written, without what Serve's ingress puts around it."""
    return deployment.func_or_class.__mro__[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    monkeypatch.setattr(engine, Reporter.__name__, _Silent)
    return tmp_path


@pytest.fixture(autouse=True)
def _serves_own_connections() -> Iterator[None]:
    before = auto.AutoHTTPProtocol
    yield
    auto.AutoHTTPProtocol = before


async def _model_server(home: Path) -> Any:
    """A replica's own object, serving version 7."""
    server = _own_class(ModelServer)()
    bundle = write_bundle(home / "bundle")
    version = ModelVersion(model="trips", version="7", run_id="r", bundle_uri=bundle.as_uri())
    await server.reconfigure(ServerConfig(champion=version, limits=LIMITS).model_dump(mode="json"))
    return server


@contextlib.asynccontextmanager
async def _listening(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started:
            await asyncio.sleep(0)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=DEADLINE_S
        ) as client:
            yield client
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)


def _answer(response: httpx.Response) -> dict[str, Any]:
    """Status, headers and body; sentences, ids and lengths only by their type."""
    headers = {name: value for name, value in response.headers.items() if name not in _NOT_OURS}
    headers["content-length"] = "a number"
    if headers.get("x-request-id") not in (None, "given"):
        headers["x-request-id"] = "an id"
    if "www-authenticate" in headers:
        headers["www-authenticate"] = headers["www-authenticate"].partition(",")[0]
    if "retry-after" in headers and int(headers["retry-after"]) > 60:
        headers["retry-after"] = "a number"
    return {"status": response.status_code, "headers": headers, "body": _body(response)}


def _body(response: httpx.Response) -> Any:
    length = int(response.headers.get(JSON_LENGTH_HEADER, len(response.content)))
    body = json.loads(response.content[:length]) if response.content[:length] else None
    if isinstance(body, dict):
        body |= {"error": "a sentence"} if "error" in body else {}
        body |= {"id": "an id"} if "id" in body and body["id"] != "mine" else {}
        if "openapi" in body:
            return sorted(body)
    return [body, response.content[length:].hex()] if length < len(response.content) else body


async def _send(client: httpx.AsyncClient, name: str, headers: dict[str, str] | None = None) -> httpx.Response:
    method, path, body = REQUESTS[name]
    content: dict[str, Any] = (
        {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
    )
    return await client.request(method, path, headers=headers, **content)


def test_responses_of_a_model_are_unchanged(home: Path) -> None:
    async def run() -> dict[str, Any]:
        server = await _model_server(home)
        async with _listening(server.__serve_build_asgi_app__()) as client:
            responses = {name: _answer(await _send(client, name)) for name in REQUESTS}
            return responses | {
                name: _answer(await _send(client, "infer", headers)) for name, headers in HEADERS.items()
            }

    golden("http", asyncio.run(run()))


def test_responses_without_uvicorn_are_equal(home: Path) -> None:
    """The way of requests that come through Serve's own proxy, which puts the request's id on."""

    async def run() -> None:
        server = await _model_server(home)
        app = server.__serve_build_asgi_app__()
        transport = httpx.ASGITransport(app=app)
        async with (
            _listening(app) as direct,
            httpx.AsyncClient(transport=transport, base_url="http://serve") as proxied,
        ):
            for name in ("infer", "infer with binary outputs", "feedback", "400 a value", "405 infer"):
                ours, theirs = _answer(await _send(direct, name)), _answer(await _send(proxied, name))
                ours["headers"].pop("x-request-id")
                assert ours == theirs

    asyncio.run(run())


def test_refusals_of_requests_are_unchanged(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOP_ACCESS", "on")
    store = KeyStore(f"sqlite:///{home / 'access.db'}")
    issued = {
        "all": store.issue("all", ("*",), ("infer", "feedback", "read"), 0.0)[1],
        "403 a model": store.issue("other", ("flights",), ("infer",), 0.0)[1],
        "403 a scope": store.issue("feedback", ("trips",), ("feedback",), 0.0)[1],
        "429": store.issue("slow", ("trips",), ("infer",), 0.0, rate="1/hour")[1],
        "401 expired": store.issue("old", ("trips",), ("infer",), 0.0, expires_at=1.0)[1],
    }

    async def run() -> dict[str, Any]:
        server = await _model_server(home)
        async with _listening(server.__serve_build_asgi_app__()) as client:

            async def ask(name: str, credential: str) -> httpx.Response:
                headers = {"authorization": f"Bearer {credential}"} if credential else {}
                return await _send(client, name, headers)

            while (await ask("metadata", issued["all"])).status_code != 200:
                await asyncio.sleep(0.01)
            responses = {
                "401": _answer(await ask("infer", "")),
                "401 unknown": _answer(await ask("infer", issued["all"][:-1])),
                "401 no key": _answer(await ask("infer", "ey.ey.ey")),
                "ready": _answer(await ask("ready", "")),
                "x-api-key": _answer(await _send(client, "infer", {"x-api-key": issued["all"]})),
            }
            await ask("infer", issued["429"])
            for name in ("401 expired", "403 a model", "403 a scope", "429"):
                responses[name] = _answer(await ask("infer", issued[name]))
            return responses

    golden("http_access", asyncio.run(run()))


def test_refusals_of_a_full_or_slow_replica_are_unchanged() -> None:
    async def never(call: HttpRequest) -> HttpResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def no_app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async def run() -> dict[str, Any]:
        responses = {}
        for name, most in (("503", 0), ("408", 1)):
            install_route(IngressRoute(never, b"/v2/models/", lambda: 1000, most, 1, 0.01))
            async with _listening(no_app) as client:
                responses[name] = _answer(await client.get(BASE))
        return responses

    golden("http_replica_refusals", asyncio.run(run()))


def test_responses_of_the_root_app_are_unchanged(home: Path) -> None:
    requests = {
        "server": ("GET", "/v2"),
        "live": ("GET", "/v2/health/live"),
        "405": ("POST", "/v2/health/live"),
        "404 a path": ("GET", "/v2/nothing"),
        "404 a model": ("POST", "/v2/models/nobody/infer"),
    }

    async def run() -> dict[str, Any]:
        front = _own_class(RootApp)()
        transport = httpx.ASGITransport(app=front.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=transport, base_url="http://serve") as client:
            return {name: _answer(await client.request(*requests[name])) for name in requests}

    golden("http_root_app", asyncio.run(run()))


@pytest.mark.parametrize(
    ("features", "task", "access"),
    [
        (samples.TRIPS, samples.BINARY, True),
        (samples.TRIPS, samples.REGRESSION, False),
        (samples.IMAGES, samples.MULTICLASS, False),
    ],
)
def test_openapi_document_is_unchanged(features: FeatureSet, task: Task, access: bool) -> None:
    document = build_openapi(features, task, features.name, "7", LIMITS, access=access)
    golden(f"openapi_{task.kind}", document)


def test_grpc_messages_and_methods_are_unchanged() -> None:
    messages = {
        name: {
            field.name: [
                field.number,
                field.type,
                field.is_repeated,
                # The package does not show on the wire.
                field.message_type and field.message_type.full_name.removeprefix("rayloop."),
            ]
            for field in message.fields
        }
        for name, message in inference_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    golden("grpc_messages", {"service": SERVICE, "methods": list(METHODS), "messages": messages})


class _Context:
    """The context that Serve passes to a method along with the request."""

    def __init__(self, metadata: dict[str, str]) -> None:
        self._metadata = metadata
        self.code, self.details = "OK", ""
        self.trailing: list[tuple[str, str]] = []

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return list(self._metadata.items())

    def request_id(self) -> str:
        return "given"

    def set_code(self, code: Any) -> None:
        self.code = code.name

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.trailing = metadata


def _grpc_request(**change: Any) -> Any:
    request = inference_pb2.ModelInferRequest(**{"model_name": "trips", "id": "mine", **change})
    for tensor in infer_body()["inputs"]:
        added = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        values = tensor["data"]
        if tensor["datatype"] == "BYTES":
            added.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            added.contents.fp64_contents.extend(values)
    return request


def test_grpc_responses_are_unchanged(home: Path) -> None:
    too_many = _grpc_request()
    for tensor in too_many.inputs:
        tensor.shape[0] = 5
        for values in (tensor.contents.bytes_contents, tensor.contents.fp64_contents):
            values.extend(list(values) * 4)
    requests: dict[str, tuple[str, Any, dict[str, str]]] = {
        "ModelReady": ("ModelReady", inference_pb2.ModelReadyRequest(name="trips"), {}),
        "ModelMetadata": ("ModelMetadata", inference_pb2.ModelMetadataRequest(name="trips"), {}),
        "ModelInfer": ("ModelInfer", _grpc_request(), {}),
        "ModelInfer without id": ("ModelInfer", _grpc_request(id=""), {"x-rayloop-key": "anna"}),
        "of another model": ("ModelInfer", _grpc_request(model_name="other"), {}),
        "of another version": ("ModelInfer", _grpc_request(model_version="9"), {}),
        "of another variant": ("ModelInfer", _grpc_request(), {"x-rayloop-variant": "other"}),
        "without inputs": ("ModelInfer", inference_pb2.ModelInferRequest(model_name="trips"), {}),
        "too many rows": ("ModelInfer", too_many, {}),
    }

    async def run() -> dict[str, Any]:
        server = await _model_server(home)
        responses: dict[str, Any] = {}
        for method in ("ServerLive", "ServerReady", "ServerMetadata"):
            responses[method] = _message(await getattr(server, method)(getattr(inference_pb2, f"{method}Request")()))
        for name, (method, request, metadata) in requests.items():
            context = _Context(metadata)
            answer = _message(await getattr(server, method)(request, context))
            # Details begin with the field at fault, which has no spaces.
            field, colon, _ = context.details.partition(": ")
            responses[name] = [
                context.code,
                field if colon and " " not in field else "",
                dict(context.trailing),
                answer,
            ]
        return responses

    golden("grpc", asyncio.run(run()))


def _message(message: Any) -> Any:

    return MessageToDict(message, preserving_proto_field_name=True)
