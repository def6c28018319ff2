"""Settings as environment variables of other processes, local or on a remote cluster."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.settings import Settings, hide_password, load_settings


def test_environment_for_the_local_cluster_has_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYLOOP_ADDRESS", raising=False)
    monkeypatch.setenv("RAYLOOP_ACCESS", "on")
    variables = load_settings().environment()
    assert (variables["RAYLOOP_ACCESS"], variables["RAYLOOP_SERVE_PORT"]) == (
        "True",
        str(load_settings().serve_port),
    )


def test_environment_for_a_remote_cluster_has_only_explicit_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in load_settings().environment():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYLOOP_ADDRESS", "http://localhost:8265")
    assert load_settings().environment() == {"RAYLOOP_ADDRESS": "http://localhost:8265"}
    monkeypatch.setenv("RAYLOOP_ACCESS", "off")
    assert load_settings().environment()["RAYLOOP_ACCESS"] == "False"


PORTS = [name for name in Settings.model_fields if name.endswith("_port")]


@pytest.mark.parametrize("name", PORTS)
def test_port_of_16_bits_is_accepted_and_another_is_refused(name: str) -> None:
    for port in (1, 65535):
        assert getattr(Settings(**{name: port}), name) == port
    for port in (0, 65536):
        with pytest.raises(ValidationError):
            Settings(**{name: port})


def test_dashboard_is_that_of_the_address_or_of_this_machine() -> None:
    assert Settings(address="http://head:8265").dashboard == "http://head:8265"
    assert Settings(address="", dashboard_port=1234).dashboard == "http://127.0.0.1:1234"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://me:pa%40ss-_@db:5432/x?sslmode=require", "postgresql+psycopg2://me:***@db:5432/x?sslmode=require"),
        ("rediss://:secret@redis:6379/1", "rediss://:***@redis:6379/1"),
        ("postgresql://me@db/x?password=secret&sslmode=require", "postgresql://me@db/x?password=***&sslmode=require"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("http://head:8265", "http://head:8265"),
        ("s3://bucket/folder", "s3://bucket/folder"),
    ],
)  # fmt: skip
def test_address_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert hide_password(uri) == shown


def test_passwords_do_not_travel_to_another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOP_ONLINE_STORE", "rediss://:secret@redis:6379/1")
    monkeypatch.setenv("RAYLOOP_RATE_STORE", "rediss://redis:6379/2")
    monkeypatch.delenv("RAYLOOP_ADDRESS", raising=False)
    assert "secret" in load_settings().environment()["RAYLOOP_ONLINE_STORE"]
    monkeypatch.setenv("RAYLOOP_ADDRESS", "http://head:8265")
    variables = load_settings().environment()
    assert "RAYLOOP_ONLINE_STORE" not in variables
    assert variables["RAYLOOP_RATE_STORE"] == "rediss://redis:6379/2"


def test_state_is_beside_the_artifacts_when_they_are_elsewhere() -> None:
    assert Settings(home=Path("/home")).state == "/home"
    assert Settings(home=Path("/home"), artifact_root="s3://bucket/mlflow").state == "s3://bucket/mlflow/state"


def test_catalog_gets_the_server_of_the_variables_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert not {"s3.endpoint", "s3.region"} & Settings().iceberg.keys()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3:8333")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "here")
    assert Settings().iceberg["s3.endpoint"] == "https://s3:8333"
    assert Settings().iceberg["s3.region"] == "here"
