"""Several challengers at the prompt: what is ordered reaches the cluster, and the status tells of each."""

from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.contracts import Decision
from deployments.controller import RolloutStatus
from deployments.judge import Verdict
from deployments.policy import RolloutPolicy
from deployments.rollout import begin, drop, entry
from pipelines import cli, people


def status(*dropped: str, entrants: tuple[str, ...] = ("2", "3", "4")) -> RolloutStatus:
    state = begin("r1", "trips", "1", entrants, RolloutPolicy(steps=(0.1, 1.0)), 100.0)
    decisions: list[Decision] = [entry(state, "start", 100.0, {})]
    for version in dropped:
        state, decision = drop(state, version, f"v{version}: the challenger is worse", 101.0, {})
        decisions.append(decision)
    verdicts = {version: Verdict(kind="hold", reason=f"undecided on {version}", figures={}) for version in entrants}
    return RolloutStatus(state=state, settled=True, evidence={}, verdicts=verdicts, decisions=tuple(decisions))


def told(found: RolloutStatus) -> list[str]:
    lines: list[str] = []
    people._show_rollout(found, lines.append)
    return [line.strip() for line in lines]


def test_the_status_tells_of_each_challenger_and_of_those_that_were_dropped() -> None:
    assert told(status("3")) == [
        "rollout r1: running with v2, v4 at 3.33% each",
        "v2: hold: undecided on 2",
        "v4: hold: undecided on 4",
        "v3 was dropped: v3: the challenger is worse",
    ]


def test_a_lone_challenger_is_told_of_in_one_line() -> None:
    assert told(status(entrants=("2",))) == ["rollout r1: running at 10%: v2 on trial against v1"]


@pytest.mark.parametrize(
    ("words", "order", "version"),
    [
        (["promote", "trips", "--version", "3"], "promote", "3"),
        (["abort", "trips", "--version", "3"], "abort", "3"),
        (["abort", "trips"], "abort", ""),
    ],
)
def test_orders_name_a_version(monkeypatch: pytest.MonkeyPatch, words: list[str], order: str, version: str) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(cli, "_order", lambda *said: heard.append(said))
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert heard == [("trips", order, "by hand", version)]


def test_a_deploy_takes_several_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(cli, "_work", lambda *words, action: heard.append(words))
    for words in ([], ["--version", "3"], ["--version", "3", "--version", "4"]):
        assert CliRunner().invoke(cli.app, ["deploy", "shop/project.py", *words]).exit_code == 0
    assert [words[2:] for words in heard] == [(), ("--version", "3"), ("--version", "3", "--version", "4")]
