"""``RAYLOOP_*``: names, types and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.node.session import SESSION_VARIABLE
from cluster.settings import Settings, load_settings
from rayloop.code_version import COMMIT
from tests.factories.golden.files import golden


@pytest.fixture(autouse=True)
def _a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RAYLOOP_{name.upper()}", raising=False)


def _described(name: str) -> dict[str, Any]:
    field = Settings.model_fields[name]
    limits = sorted(str(limit) for limit in field.metadata)
    default = "computed" if field.default_factory else field.default
    return {"type": field.annotation.__name__, "default": default, "limits": limits}


def test_variables_types_and_defaults_are_unchanged() -> None:
    described = {f"RAYLOOP_{name.upper()}": _described(name) for name in Settings.model_fields}
    golden("settings", {**described, "of the processes": [SESSION_VARIABLE, COMMIT]})


def test_variable_is_read_and_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"home": "/h", "cpus": "3", "access": "True", "price_cpu_hour": "0.5", "jwt_leeway_s": "7.0"}
    for name, value in values.items():
        monkeypatch.setenv(f"RAYLOOP_{name.upper()}", value)
    passed = load_settings().environment()
    assert {name: passed[f"RAYLOOP_{name.upper()}"] for name in values} == values


def test_paths_under_home_are_unchanged() -> None:
    settings = Settings(home=Path("/home"))
    golden(
        "home_paths",
        {
            "mlflow": settings.mlflow_uri,
            "artifacts": settings.mlflow_artifacts,
            "checkpoints": settings.checkpoints,
            "iceberg": settings.iceberg,
            "online store": settings.online_store_uri,
            "keys": settings.access_uri,
            "scratch": settings.scratch.name,
            "dashboard": settings.dashboard,
            "endpoint": settings.endpoint,
        },
    )
