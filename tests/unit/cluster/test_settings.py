"""Settings as environment variables of other processes, local or on a remote cluster."""

import pytest
from pydantic import ValidationError

from cluster.settings import Settings, load_settings


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
