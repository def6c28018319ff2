"""``rayloop run`` starts a cluster on this machine where there is none, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.settings import Settings
from rayloop.cli.app import app


@pytest.mark.parametrize(
    ("processes", "listens", "address", "starts"),
    [
        ([], False, "", 1),
        (["raylet"], False, "", 0),
        ([], True, "", 0),
        ([], False, "http://head:8265", 0),
    ],
)
def test_run_starts_a_cluster_where_none_is(
    processes: list[str], listens: bool, address: str, starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Settings] = []
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("RAYLOOP_ADDRESS", address)
    monkeypatch.setattr("rayloop.cli.app.processes", lambda settings: processes)
    monkeypatch.setattr("rayloop.cli.app.listens", lambda port: listens)
    monkeypatch.setattr("cluster.local_cluster.start", lambda settings, progress: not started.append(settings))
    monkeypatch.setattr("rayloop.cli.app.run_or_submit", lambda command, project, check, **options: check(None))
    result = CliRunner().invoke(app, ["run", "project.py"])
    assert (result.exit_code, len(started)) == (0, starts), result.output
