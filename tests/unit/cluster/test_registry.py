"""The epoch of a rollout's controller at a model's aliases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster import registry
from cluster.errors import WriterReplaced
from cluster.registry import EPOCH_TAG, Registry
from cluster.settings import Settings
from cluster.values import ModelVersion, MoveMark
from tests.factories.errors import raises

VERSION = ModelVersion(model="trips", version="2", run_id="r", bundle_uri="/nowhere")


class Client:
    """MLflow with one model."""

    def __init__(self, **unused: str) -> None:
        self.tags: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def search_experiments(self, **unused: int) -> list[object]:
        return []

    def get_registered_model(self, model: str) -> Any:
        return SimpleNamespace(tags=dict(self.tags))

    def set_registered_model_tag(self, model: str, name: str, value: str) -> None:
        self.tags[name] = value

    def set_registered_model_alias(self, model: str, alias: str, version: str) -> None:
        self.aliases[alias] = version


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(registry, "MlflowClient", lambda **_: client)
    return client


def test_controller_with_a_lower_epoch_sets_no_alias(client: Client) -> None:
    mlflow = Registry(Settings(tracking_uri="http://mlflow"))
    mlflow.set_alias(VERSION, "challenger", 7)
    assert client.tags == {EPOCH_TAG: "7"}
    for refused in (
        lambda: mlflow.set_alias(VERSION, "champion", 6),
        lambda: mlflow.clear_alias("trips", "champion", 6),
    ):
        with raises(WriterReplaced, "cluster.writer_replaced", writer="rollout:trips", epoch=6, newest=7):
            refused()
    assert client.aliases == {"challenger": "2"}


def test_mark_of_a_model_that_moves_is_read_and_removed(client: Client) -> None:
    mlflow = Registry(Settings(tracking_uri="http://mlflow"))
    mark = MoveMark(cluster="session_1", share=0.5)
    mlflow.set_move("trips", mark)
    assert mlflow.move("trips") == mark
    mlflow.set_move("trips", None)
    assert mlflow.move("trips") is None


@pytest.mark.parametrize(("share", "first", "second"), [(0.0, True, True), (0.5, True, True), (1.0, True, False)])
def test_rollouts_are_for_the_cluster_that_has_all_requests(share: float, first: bool, second: bool) -> None:
    mark = MoveMark(cluster="session_1", share=share)
    assert (mark.forbids_rollouts("session_1"), mark.forbids_rollouts("session_2")) == (first, second)


def test_person_without_an_epoch_sets_any_alias(client: Client) -> None:
    mlflow = Registry(Settings(tracking_uri="http://mlflow"))
    mlflow.set_alias(VERSION, "challenger", 7)
    mlflow.set_alias(VERSION, "champion")
    assert (client.aliases, client.tags) == ({"challenger": "2", "champion": "2"}, {EPOCH_TAG: "7"})
