"""The protocol as a public client speaks it, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from cluster.settings import Settings, load_settings
from cluster.values import ModelVersion
from tests.factories.deployments.request_load import sigmoid
from tests.factories.deployments.versions import MODEL, TRUE_SLOPE

pytestmark = pytest.mark.cluster

DISTANCES = np.array([0.5, np.nan, -1.0])
EXPECTED = sigmoid(0.75 * TRUE_SLOPE * np.nan_to_num(DISTANCES))
# Serve's own HAProxy needs to be told what the request names.
APPLICATION = {} if load_settings().door else {"application": MODEL}


@pytest.fixture(scope="module")
def http(cluster: Settings, served: ModelVersion) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(cluster.endpoint.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def grpc(cluster: Settings, served: ModelVersion) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{cluster.grpc_port}") as client:
        yield client


def inputs(kind, binary: bool | None = None) -> list:
    columns = {
        "distance": ("FP64", DISTANCES),
        "carrier": ("BYTES", np.array(["AA", "UA", "unlisted"], np.object_)),
        "departs": ("BYTES", np.array(["2024-05-01T10:00:00Z"] * 3, np.object_)),
    }
    tensors = []
    for name, (datatype, values) in columns.items():
        tensor = kind.InferInput(name, [3], datatype)
        tensor.set_data_from_numpy(values, **({} if binary is None else {"binary_data": binary}))
        tensors.append(tensor)
    return tensors


@pytest.mark.parametrize("binary_out", [True, False])
def test_http_infer_in_binary_form(
    http: triton_http.InferenceServerClient, served: ModelVersion, binary_out: bool
) -> None:
    outputs = [triton_http.InferRequestedOutput("score", binary_data=binary_out)]
    result = http.infer(MODEL, inputs(triton_http, True), outputs=outputs, request_id=f"triton-{binary_out}")
    np.testing.assert_allclose(result.as_numpy("score"), EXPECTED, atol=1e-4)
    assert result.get_response()["model_version"] == served.version
    assert result.get_response()["id"] == f"triton-{binary_out}"


def test_http_infer_with_version(http: triton_http.InferenceServerClient, served: ModelVersion) -> None:
    result = http.infer(MODEL, inputs(triton_http, True), model_version=served.version)
    np.testing.assert_allclose(result.as_numpy("score"), EXPECTED, atol=1e-4)
    with pytest.raises(InferenceServerException, match="v999"):
        http.infer(MODEL, inputs(triton_http, True), model_version="999")


def test_http_health_and_metadata(http: triton_http.InferenceServerClient, served: ModelVersion) -> None:
    assert http.is_server_live()
    assert http.is_server_ready()
    assert http.is_model_ready(MODEL)
    assert not http.is_model_ready("unlisted")
    assert "binary_tensor_data" in http.get_server_metadata()["extensions"]
    metadata = http.get_model_metadata(MODEL)
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["distance", "carrier", "departs"]
    assert metadata["versions"] == [served.version]


def test_http_infer_without_an_input_names_it(http: triton_http.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="distance"):
        http.infer(MODEL, inputs(triton_http, True)[1:])


def test_grpc_infer_answers(grpc: triton_grpc.InferenceServerClient, served: ModelVersion) -> None:
    result = grpc.infer(MODEL, inputs(triton_grpc), request_id="triton-grpc", headers=APPLICATION)
    np.testing.assert_allclose(result.as_numpy("score"), EXPECTED, atol=1e-4)
    response = result.get_response()
    assert (response.model_version, response.id) == (served.version, "triton-grpc")
    assert response.parameters["variant"].string_param == "champion"


def test_grpc_health_and_metadata(grpc: triton_grpc.InferenceServerClient, served: ModelVersion) -> None:
    assert grpc.is_server_live(headers=APPLICATION)
    assert grpc.is_server_ready(headers=APPLICATION)
    assert grpc.is_model_ready(MODEL, headers=APPLICATION)
    metadata = grpc.get_model_metadata(MODEL, headers=APPLICATION)
    assert next((tensor.name, list(tensor.shape)) for tensor in metadata.inputs) == ("distance", [-1])
    assert list(metadata.versions) == [served.version]


@pytest.mark.parametrize(
    ("model", "version", "tensors", "status", "field"),
    [
        ("unlisted", "", slice(None), "NOT_FOUND", "unlisted"),
        (MODEL, "999", slice(None), "NOT_FOUND", "v999"),
        (MODEL, "", slice(1, None), "INVALID_ARGUMENT", "distance"),
    ],
)
def test_grpc_infer_of_bad_requests_gives_status(
    grpc: triton_grpc.InferenceServerClient, model: str, version: str, tensors: slice, status: str, field: str
) -> None:
    with pytest.raises(InferenceServerException, match=field) as caught:
        grpc.infer(model, inputs(triton_grpc)[tensors], model_version=version, headers=APPLICATION)
    assert status in caught.value.status()
