"""A table becomes a served model by two commands, without an edit."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from cluster.settings import Settings
from tests.factories.rayloop.command import rayloop
from tests.factories.rayloop.package_tables import TABLES

pytestmark = pytest.mark.cluster


def test_table_with_time_and_entity_is_served_by_two_commands(cluster: Settings, tmp_path: Path) -> None:
    flights = TABLES["flights"].load().gather_every(4)
    flights.write_parquet(tmp_path / "flights.parquet")
    words = ["--table", "flights.parquet", "--label", "late", "--entity", "tailnum"]
    rayloop(cluster, tmp_path, "init", "delays", *words)
    rayloop(cluster, tmp_path, "run", "delays/project.py")
    request = json.loads((tmp_path / "delays" / "request.json").read_text())
    answer = httpx.post(f"{cluster.endpoint}/v2/models/delays/invocations", json=request, timeout=30)
    assert answer.status_code == 200, answer.text
    (score,) = answer.json()["predictions"]
    assert 0.0 <= score <= 1.0
