"""Who answers a tester, and who a caller: by path, by header, by the split."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.errors import RequestError
from cluster.values import ModelVersion
from deployments.inference.dispatch import ServingState, assign_variant
from deployments.inference.traffic_split import slice_start
from deployments.serve_schema import RolloutTrial, ServerConfig


def version(number: str) -> ModelVersion:
    return ModelVersion(model="trips", version=number, run_id="r", bundle_uri="file:///nowhere")


def live(*challengers: str, share: float = 0.2) -> ServingState:
    starts = tuple(slice_start(i, len(challengers)) for i in range(len(challengers)))
    told = {"challengers": tuple(map(version, challengers)), "starts": starts, "share": share}
    trial = RolloutTrial(rollout="r", timeout_s=1.0, **told) if challengers else None
    config = ServerConfig(champion=version("1"), trial=trial)
    champion = cast(Any, SimpleNamespace(version="1"))
    return ServingState(config, champion, cast(Any, None), dict.fromkeys(challengers, cast(Any, object())))


@pytest.mark.parametrize(
    ("path", "header", "expected"),
    [
        (None, None, None),
        (None, "champion", "1"),
        ("1", None, "1"),
        ("3", None, "3"),
        ("3", "challenger", "3"),
        ("1", "champion", "1"),
    ],
)
def test_with_several_challengers_a_path_says_which(path: str | None, header: str | None, expected: str | None) -> None:
    assert live("2", "3").forced(path, header) == expected


@pytest.mark.parametrize(
    ("path", "header", "status", "said"),
    [
        (None, "challenger", 400, "2 challengers are on trial; name a version: 2, 3"),
        ("9", None, 404, "v9 is not served"),
        ("3", "champion", 400, "v3 is the challenger"),
        (None, "other", 400, "expected champion or challenger"),
    ],
)
def test_what_does_not_say_which_is_refused(path: str | None, header: str | None, status: int, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        live("2", "3").forced(path, header)
    assert caught.value.status == status


def test_a_lone_challenger_needs_no_name_and_without_one_the_champion_answers() -> None:
    assert live("2").forced(None, "challenger") == "2"
    assert live().forced(None, "challenger") == "1"


def test_the_split_and_force_name_the_challenger() -> None:
    served = live("2", "3", share=0.5)
    assert {assign_variant(served, None, f"user-{i}") for i in range(50)} == {"2", "3"}
    assert (assign_variant(served, "3", "user"), assign_variant(served, "1", "user")) == ("3", None)
    assert assign_variant(live("2", "3", share=0.0), None, "user") is None
    assert assign_variant(live(), None, "user") is None


def test_what_challengers_leave_is_the_champions() -> None:
    trial = live("2", "3", share=0.2).config.trial
    assert trial is not None
    assert trial.champion_share == pytest.approx(0.6)
