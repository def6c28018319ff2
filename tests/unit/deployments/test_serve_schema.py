"""Configuration of replicas: valid values, and the defaults of a project."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.values import ModelVersion
from deployments.serve_schema import (
    MAX_ONGOING_REQUESTS,
    MAX_QUEUED_REQUESTS,
    RequestLimits,
    ServerConfig,
    Serving,
    TrafficSplit,
    challenger_app_name,
    challenger_prefix,
    model_app_name,
)


def version(number: str) -> ModelVersion:
    return ModelVersion(model="trips", version=number, run_id="run", bundle_uri="/bundles")


def split(**change: object) -> TrafficSplit:
    fields = {"rollout": "r", "challengers": (version("2"),), "share": 0.25, "timeout_s": 1.0}
    return TrafficSplit.model_validate(fields | change)


def test_serving_by_default_is_one_replica_with_the_documented_limits() -> None:
    # docs/serving.md promises callers 16 MiB and 4,096 rows.
    assert Serving().replicas == 1
    assert (Serving().limits.body_bytes, Serving().limits.rows) == (2**24, 4096)


@pytest.mark.parametrize("change", [{"replicas": 0}, {"cpus": 0.0}])
def test_serving_without_replicas_or_cpus_is_refused(change: dict) -> None:
    with pytest.raises(ValidationError):
        Serving.model_validate(change)
    assert Serving(replicas=1, cpus=0.001)


@pytest.mark.parametrize("name", ["body_bytes", "rows"])
def test_request_limits_admit_at_least_one(name: str) -> None:
    assert RequestLimits.model_validate({name: 1})
    with pytest.raises(ValidationError):
        RequestLimits.model_validate({name: 0})


@pytest.mark.parametrize(
    "change", [{"timeout_s": 0.0}, {"timeout_s": -0.5}, {"share": -0.01}, {"share": 1.01}, {"challengers": ()}]
)
def test_traffic_split_that_cannot_run_is_refused(change: dict) -> None:
    with pytest.raises(ValidationError):
        split(**change)
    assert split(timeout_s=0.001, share=0.0)
    assert split(share=1.0)


def test_champion_share_is_what_the_challengers_leave() -> None:
    assert split().champion_share == 0.75
    assert split(challengers=(version("2"), version("3"), version("4"))).champion_share == 0.25


def test_server_config_of_a_newer_release_is_read_without_its_new_fields() -> None:
    config = ServerConfig(champion=version("1"), split=split())
    assert ServerConfig.from_stored(config.model_dump() | {"later": 1}) == config


def test_challenger_app_name_is_unique_to_rollout_and_version() -> None:
    assert model_app_name("trips") == "trips"
    assert challenger_app_name("trips", "r1", "2") == "trips.challenger.r1.2"
    assert challenger_app_name("trips", "r1", "2").startswith(challenger_prefix("trips"))


def test_serving_guide_names_the_limits_of_a_replica() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    assert f"is processing {MAX_ONGOING_REQUESTS} requests and {MAX_QUEUED_REQUESTS} more are waiting" in guide
