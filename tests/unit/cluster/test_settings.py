"""Settings as environment variables of other processes, local or on a remote cluster."""

import pytest

from cluster.settings import load_settings


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
