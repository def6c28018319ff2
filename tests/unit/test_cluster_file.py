"""ray-cluster.yaml and its twin for machines of one's own, by Ray's own schema and checks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.settings import Settings, hide_password, load_settings
from deployments.auth.rate_limits import RedisRateLimiter, open_rate_limiter, parse_rate

ROOT = Path(__file__).parents[2]
FILES = ("ray-cluster.yaml", "ray-cluster-hosts.yaml")
ADDRESSES = {"provider", "auth", "available_node_types", "head_node_type", "max_workers", "idle_timeout_minutes"}
"""Fields in which the two files may differ: one names instances of a provider, the other addresses of machines."""

each_file = pytest.mark.parametrize("name", FILES)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


@each_file
def test_cluster_file_passes_validation_by_ray(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]


def test_twin_differs_in_provider_and_addresses_only() -> None:
    cloud, hosts = (read(name) for name in FILES)
    differing = {field for field in cloud.keys() | hosts.keys() if cloud.get(field) != hosts.get(field)}
    assert differing <= ADDRESSES
    assert (cloud["provider"]["type"], hosts["provider"]["type"]) == ("aws", "local")


def test_head_has_no_work_and_workers_scale() -> None:
    groups = read("ray-cluster.yaml")["available_node_types"]
    assert groups["head"]["resources"] == {"CPU": 0}
    assert groups["cpu-worker"]["max_workers"] > groups["cpu-worker"]["min_workers"]
    assert groups["gpu-worker"]["resources"]["GPU"] >= 1


@each_file
def test_nodes_start_under_the_supervisor_and_secrets_are_files(name: str) -> None:
    config = read(name)
    for role in ("head", "worker"):
        stop, start = config[f"{role}_start_ray_commands"]
        assert stop == "python -m rayloop down"
        assert "; python -m rayloop node -- ray start --" in start
    assert "--num-cpus=0" in config["head_start_ray_commands"][1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    text = (ROOT / name).read_text()
    assert "RAYLOOP_TRACKING_URI" not in text
    assert "://rayloop:" not in text


def test_variables_have_shared_stores_over_tls_and_access_on(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["bash", "-c", "env -i bash -c 'set -a; . ./ray-cluster.env; env -0'"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    variables = dict(line.split("=", 1) for line in output.split("\0") if line)
    own = {name: value for name, value in variables.items() if name.startswith("RAYLOOP_")}
    assert own.keys() <= {f"RAYLOOP_{field.upper()}" for field in Settings.model_fields}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    for uri in (settings.mlflow_uri, settings.iceberg["uri"], settings.access_uri):
        assert uri.startswith("postgresql+psycopg2://")
        assert "sslmode=verify-full&sslrootcert=/" in uri
        assert ":***@" in hide_password(uri)
    assert {uri.partition("://")[0] for uri in (settings.online_store_uri, settings.rate_store)} == {"rediss"}
    places = (settings.mlflow_artifacts, settings.iceberg["warehouse"], settings.checkpoints, settings.state)
    assert {place.partition("://")[0] for place in places} == {"s3"}
    assert settings.serve_host == "0.0.0.0"
    assert settings.access
    assert parse_rate(settings.access_rate).amount == 6000
    assert isinstance(open_rate_limiter(settings.rate_store), RedisRateLimiter)


@each_file
def test_installation_has_the_clients_of_all_stores(name: str) -> None:
    installs = [command for command in read(name)["setup_commands"] if "pip install" in command]
    assert "[redis,postgresql,s3]" in installs[0]
