"""ray-cluster.yaml, by Ray's own schema and checks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.settings import load_settings
from deployments.auth.rate_limits import RedisRateLimiter, open_rate_limiter, parse_rate

FILE = Path(__file__).parents[2] / "ray-cluster.yaml"


def test_cluster_file_passes_validation_by_ray() -> None:
    config = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]


def test_cluster_file_has_autoscaling_workers_and_variables_of_serve() -> None:
    config = yaml.safe_load(FILE.read_text())
    groups = config["available_node_types"]
    assert groups["cpu-worker"]["max_workers"] > groups["cpu-worker"]["min_workers"]
    assert groups["gpu-worker"]["resources"]["GPU"] >= 1
    text = FILE.read_text()
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in text
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in text


def test_cluster_file_has_access_on_and_shared_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = yaml.safe_load(FILE.read_text())["setup_commands"]
    [heredoc] = [command for command in commands if "<<'END'" in command]
    for line in heredoc.splitlines():
        if line.startswith("RAYLOOP_"):
            monkeypatch.setenv(*line.split("=", 1))
    settings = load_settings()
    assert settings.access
    assert settings.access_uri.startswith("postgresql+psycopg2://")
    assert parse_rate(settings.access_rate).amount == 6000
    assert isinstance(open_rate_limiter(settings.rate_store), RedisRateLimiter)
    [install] = [command for command in commands if "pip install" in command]
    assert {"psycopg2-binary", "~/rayloop[redis]"} <= set(install.split())
