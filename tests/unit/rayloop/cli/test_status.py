"""The status: alarms with their actions, windows, and the evidence of a rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster import jobs
from cluster.settings import Settings, load_settings
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.paired_moments import PairedMoments
from deployments.label_delay import follow_label_delay
from deployments.rollout.probation import LateVerdict
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.state_machine import apply_command, begin
from deployments.rollout_policy import DAY_S, RolloutPolicy
from monitoring.analysis.group_disparity import GroupDisparity
from monitoring.analysis.log_analysis import AnalysisResult
from monitoring.performance.estimate_intervals import MetricInterval, WindowEstimate
from monitoring.performance.loss_bounds import RateCount
from monitoring.retraining.retrain_scheduler import ScheduleStatus
from rayloop.cli.status import describe_monitor, describe_rollout, recent_alarms
from tests.factories.rayloop.rollouts import rollout_status


def entry(action: str, outcome: str, reason: str, failed: bool = False, level: float | None = None) -> dict[str, Any]:
    alarm = {"kind": "drift", "reason": reason, "level": level}
    return {"action": action, "outcome": outcome, "failed": failed, "alarm": alarm, "at": 0.0}


def monitor(
    *alarms: dict[str, Any],
    window: dict[str, Any] | None = None,
    estimate: WindowEstimate | None = None,
    analysis: AnalysisResult | None = None,
) -> list[str]:
    status = {
        "drifting": False,
        "windows": 3,
        "last_window": window,
        "alarms": list(alarms),
        "false_alarms": {"drift": 0.4, "quality": 0.2},
        "last_look": analysis.model_dump(mode="json", by_alias=True) if analysis else None,
        "estimate": estimate.model_dump() if estimate else None,
        "retraining": ScheduleStatus(
            model="m",
            triggers=(),
            last=None,
            paused=None,
            runs_left=None,
            minutes_left=None,
            period_days=7.0,
            journal=(),
        ).model_dump(mode="json"),
        "last_error": "",
        "used": {"requests": 0},
        "tags": {},
        "cost": 0.0,
    }
    return list(describe_monitor(load_settings(), status))


@pytest.fixture
def job_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(settings: Settings, job: str) -> tuple[str, str]:
        if job == "unknown":
            raise RuntimeError("Request failed with status code 404")
        return "FAILED", "the training frame has no train rows"

    monkeypatch.setattr(jobs, "outcome", outcome)


@pytest.mark.usefixtures("job_states")
@pytest.mark.parametrize(
    ("alarm", "line"),
    [
        (entry("retrain", "retrain-m-v1", "price moved"), "drift: retrain retrain-m-v1 (failed): price moved"),
        (entry("retrain", "unknown", "price moved"), "drift: retrain unknown: price moved"),
        (entry("notify", "", "x", level=0.0133), "drift (level 0.013): notify : x"),
        (entry("held", "cooling down", "price moved"), "drift: held cooling down: price moved"),
        (entry("retrain", "OSError: no", "x", failed=True), "drift: retrain OSError: no: x"),
    ],
    ids=["failed_job", "unknown_job", "with_its_level", "no_job", "not_submitted"],
)
def test_alarm_with_a_job_shows_the_state_of_the_job(alarm: dict[str, Any], line: str) -> None:
    assert monitor(alarm)[2].endswith(line)


def test_recent_alarms_include_the_last_one_that_submitted_a_job() -> None:
    alarms = [
        entry("retrain", "a", "1"),
        entry("rollback", "b", "2"),
        *(entry("held", "", str(i)) for i in range(3, 9)),
    ]
    assert [one["alarm"]["reason"] for one in recent_alarms(alarms)] == ["2", "6", "7", "8"]
    assert [one["alarm"]["reason"] for one in recent_alarms(alarms[:2])] == ["1", "2"]


def test_window_without_a_verdict_shows_why() -> None:
    assert "3 windows closed," in monitor(window={"judged": True, "note": ""})[0]
    assert "9 rows, 200 are needed" in monitor(window={"judged": False, "note": "9 rows, 200 are needed"})[0]
    assert "3 windows closed," in monitor()[0]


def test_estimate_has_its_interval_or_the_reason_of_its_refusal() -> None:
    known = WindowEstimate(intervals={"mae": MetricInterval(value=2.0, low=1.5, high=2.5)})
    assert "  estimated without labels: mae 2 (1.5 to 2.5), 95% intervals" in monitor(estimate=known)
    refused = WindowEstimate(code="data.too_few_windows", reason="2 windows")
    assert "  estimated without labels: refused (data.too_few_windows): 2 windows" in monitor(estimate=refused)
    assert not any("estimated" in line for line in monitor())


def test_differences_between_groups_are_shown_with_their_bound_and_limit() -> None:
    groups = {"f": RateCount(8, 6), "m": RateCount(4, 1)}
    disparity = GroupDisparity(name="positive rate by sex", limit=0.1, since=0.0, groups=groups, low=0.25)
    analysis = AnalysisResult(version="1", window=0.0, since=0.0, rows=12, disparities=(disparity,))
    line = "  positive rate by sex: groups differ by 0.5 (at least 0.25 with confidence, 0.1 allowed)"
    assert line in monitor(analysis=analysis)
    assert not any(
        "groups differ" in line for line in monitor(analysis=analysis.model_copy(update={"disparities": ()}))
    )


def lines(status: RolloutStatus) -> list[str]:
    return [line.strip() for line in describe_rollout(status, 190.0)]


def test_rollout_with_several_challengers_shows_each_and_those_dropped() -> None:
    status_lines = lines(rollout_status("3"))
    assert status_lines[0] == "rollout r1: running at 3.33% each, v2, v4"
    assert status_lines[1].startswith("step 1 of 2 for 1.5 of 60.0 min")
    assert status_lines[2:] == [
        "v2: hold: undecided on 2",
        "v4: hold: undecided on 4",
        "v3 was dropped: v3: the challenger is worse",
    ]


def test_rollout_with_one_challenger_is_one_line_and_its_step() -> None:
    assert lines(rollout_status(challengers=("2",)))[0] == "rollout r1: running at 10%: v2 on trial against v1"


def test_rollout_shows_the_evidence_so_far() -> None:
    unlabeled = ComparisonEvidence(
        champion=VariantStats(requests=1900), challenger=VariantStats(requests=100, failures=3)
    )
    labeled = unlabeled + ComparisonEvidence(paired=PairedMoments.from_losses(np.full(50, 0.5), np.full(50, 0.25)))
    copied = unlabeled + ComparisonEvidence(copies=VariantStats(requests=1200, failures=2, unanswered=7))
    for evidence, figures in (
        (unlabeled, ()),
        (labeled, ("50 labeled rows", "0.2500", "0.5000")),
        (copied, (", v2 1,200 copies (2 failed, 7 unanswered)",)),
    ):
        status = rollout_status(challengers=("2",))
        line = lines(status.model_copy(update={"evidence": {"2": RolloutEvidence(overall=evidence)}}))[2]
        assert line.startswith("v2 100 requests (3 failed), v1 1,900 requests (0 failed)")
        assert all(figure in line for figure in figures)


def test_rollout_that_ended_has_no_share() -> None:
    status = rollout_status(challengers=("2",))
    assert status.state is not None
    ended, _ = apply_command(status.state, "abort", "enough", 102.0)
    assert lines(status.model_copy(update={"state": ended})) == ["rollout r1: aborted: enough"]


def test_rollout_that_was_promoted_names_the_version() -> None:
    status = rollout_status()
    assert status.state is not None
    ended, _ = apply_command(status.state, "promote", "enough", 102.0, "3")
    assert lines(status.model_copy(update={"state": ended})) == ["rollout r1: promoted v3: enough"]


def test_invalid_rollout_says_what_to_do_and_whose_evidence_is_set_aside() -> None:
    status = rollout_status(challengers=("2",))
    assert status.state is not None
    invalid = status.state.model_copy(update={"status": "invalid", "check": "labels", "reason": "labels differ"})
    lines = list(describe_rollout(status.model_copy(update={"state": invalid}), 160.0))
    assert lines[0].endswith("invalid at 10%: labels differ")
    assert "`rayloop resume trips`" in lines[1]
    resumed, _ = apply_command(invalid, "resume", "fixed", 3600.0)
    lines = list(describe_rollout(status.model_copy(update={"state": resumed}), 3660.0))
    assert "evidence from before 1970-01-01 01:00" in lines[2]


def test_rollout_shows_its_path_and_when_labels_are_due() -> None:
    policy = follow_label_delay(RolloutPolicy(steps=(0.1, 1.0)), 90 * DAY_S)
    state = begin("r1", "trips", "1", ("2",), policy, 1_793_491_200.0)
    promoted, _ = apply_command(state, "promote", "by hand", 1_793_491_300.0)
    confirmed = promoted.model_copy(update={"on_probation": False})
    lines = [
        list(describe_rollout(rollout_status().model_copy(update={"state": one}), 1_793_491_400.0))[1].strip()
        for one in (state, promoted, confirmed)
    ]
    assert lines == [
        "path: health decides the steps, and labels, which take 90 days, after the promotion; "
        "first labeled verdict due 2027-01-30",
        "path: health; v2 is on probation: first labeled verdict due 2027-01-30",
        "path: health",
    ]
    assert next(line for line in describe_rollout(rollout_status(), 101.0) if "step" in line).endswith("labels decide")
    late = LateVerdict(action="hold", reason="on probation: first labeled verdict due 2027-01-30; rows differ")
    status = rollout_status().model_copy(update={"state": promoted, "late_verdict": late})
    assert [*describe_rollout(status, 1_793_491_400.0)][1].strip() == f"path: health; v2 is {late.reason}"
