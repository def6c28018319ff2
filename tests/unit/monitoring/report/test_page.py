"""The page has every section, is self-contained, and escapes text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from cluster.values import Alarm, Decision
from monitoring.analysis.group_disparity import GroupDisparity
from monitoring.analysis.log_analysis import AnalysisResult, WindowQuality
from monitoring.analysis.multivariate_drift import MultivariateDrift
from monitoring.detection.detector import DriftDetector, WindowResult, evaluate_run
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.export.cost import UsageTotals
from monitoring.performance.loss_bounds import LabeledLoss, RateCount, bound_loss
from monitoring.report.log_analysis_sections import quality_cost
from monitoring.report.page import render_report
from monitoring.report.schema import (
    AlarmOutcome,
    CalibrationCurve,
    MetricHistory,
    ModelCost,
    MonitoringReport,
    RolloutHistory,
    VersionRow,
)
from monitoring.retraining.decision import RetrainEntry
from monitoring.retraining.retrain_gain import RetrainGain
from monitoring.samples.domain_classifier import Separability
from monitoring.statistics.drift_reference import DriftReference, MonitoredColumn
from tests.factories.monitoring import streams

SECTIONS = (
    "Quality over time",
    "Calibration",
    "Drift",
    "Performance by window",
    "Differences between groups",
    "Drift in logged rows",
    "Rollouts",
    "Events in order",
    "Retraining",
    "Versions",
    "Cost",
    "Time by stage",
)
NASTY = '<script>alert("x")</script> & "co"'
DISPARITY = GroupDisparity(
    name=f"positive rate by {NASTY}",
    limit=0.1,
    since=100 * DAY_S,
    groups={
        NASTY: RateCount(1_200, 900),
        "m": RateCount(900, 450),
    },
    low=0.15,
)


def decisions(*actions: str) -> tuple[Decision, ...]:
    return tuple(
        Decision(
            rollout="r",
            at=1_700_000_000.0 + 30 * i,
            action=action,
            share=0.0 if action in ("promote", "abort") else 0.25 * (i + 1),
            reason=f"because {NASTY} {i}",
            champion="1",
            challengers=("2",),
        )
        for i, action in enumerate(actions)
    )


def drift() -> tuple[tuple, tuple[AlarmOutcome, ...]]:
    policy = DriftPolicy(span=1, watch=(MonitoredColumn(column="x", direction="up"),))
    drift_reference = DriftReference(streams.reference(0), 1, policy.watch)
    detector = DriftDetector("m", "1", policy)
    live = streams.windows(1, 6, 300, first=100) | streams.windows(2, 3, 300, first=120, shift=2.0)
    results, actions = [], []
    for start in sorted(live):
        results.append(evaluate_run(drift_reference, policy, "1", (start,), live[start]))
        if (alarm := detector.update(results[-1])) is not None:
            actions.append(AlarmOutcome(at=1_700_000_100.0, alarm=alarm, outcome=f"job {NASTY}"))
    return tuple(results), tuple(actions)


def performance() -> tuple[WindowQuality, ...]:
    rng = np.random.default_rng(0)
    entries = []
    for i, segment in ((i, s) for i in range(8) for s in ("", f"shop = {NASTY}")):
        labeled = LabeledLoss.from_losses(np.square(rng.normal(0, 0.3 + 0.1 * i, 200)), 300)
        entries.append(
            WindowQuality(
                version="1",
                window=(100 + i) * DAY_S,
                segment=segment,
                labeled=labeled,
                limits=bound_loss(labeled, 0.05),
                reference=0.1,
                worse=i > 5,
                observed={"accuracy": 0.9},
                estimated={} if segment else {"CBPE": {"accuracy": 0.85}},
            )
        )
    return tuple(entries)


def analyses(results: tuple[WindowResult, ...]) -> tuple[AnalysisResult, ...]:
    separability = Separability(auc=0.7, low=0.68, high=0.72, p_value=1e-9, ranked=(("x", 0.8), (NASTY, 0.2)))
    multivariate = MultivariateDrift(separation=separability, p_value=0.001, drifted=True, ordinary=())
    return tuple(
        AnalysisResult(
            version="1",
            window=result.window,
            since=result.since,
            rows=300,
            multivariate=multivariate if i > 3 else None,
            segments={f"shop = {NASTY}": result},
            disparities=(DISPARITY,),
            faults=(f"not {NASTY}",),
        )
        for i, result in enumerate(results)
    )


@pytest.fixture(scope="module")
def report() -> MonitoringReport:
    results, actions = drift()
    return MonitoringReport(
        model="flights",
        made_at=1_700_000_500.0,
        facts=(("test AUC", "0.7461"), ("baseline", NASTY)),
        quality=(
            MetricHistory(
                metric="AUC",
                better="higher",
                periods=("Oct", "Nov", "Dec"),
                series={"this model": (0.75, None, 0.73), "baseline": (0.7, 0.69, 0.68)},
            ),
        ),
        calibration=(CalibrationCurve(name="v1", predicted=(0.1, 0.5), observed=(0.2, 0.5), counts=(300, 100)),),
        drift=results,
        actions=actions,
        performance=performance(),
        analyses=analyses(results),
        cost=ModelCost(
            total=1.5, usage=UsageTotals(cpu_s=900, reserved_cpu_s=3600, requests=1000), tags={"team": NASTY}
        ),
        rollouts=(
            RolloutHistory(name="sound", decisions=decisions("start", "hold", "advance", "promote")),
            RolloutHistory(name="sabotaged", decisions=decisions("start", "pause", "resume", "abort")),
        ),
        versions=(VersionRow(version="1", role="champion", trained_on=NASTY, metrics={"auc": 0.75}),),
        retraining=(RetrainEntry(at=0.0, event="run", trigger="alarm", reason=NASTY, job="job-1"),),
        gains=(RetrainGain(version="2", replaced="1", promoted=0.0, rows=9, loss=0.25, replaced_loss=0.5),),
        timings={"tune": 70.0, "land": 6.0},
    )


@pytest.fixture(scope="module")
def page(report: MonitoringReport) -> str:
    return render_report(report)


def text_of(page: str) -> str:
    class Text(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        def handle_data(self, data: str) -> None:
            self.texts.append(data)

    parser = Text()
    parser.feed(page)
    return " ".join(parser.texts)


def test_report_has_a_plot_or_table_in_every_section(page):
    for title in SECTIONS:
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 6
    assert page.count("<table") == 11


def test_report_loads_nothing(page):
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|\s*data:)""", page)
    assert "url(http" not in page
    assert "@import" not in page


def test_report_escapes_values(page):
    assert "<script" not in page
    assert text_of(page).count('alert("x")') >= 6


def test_plots_are_well_formed_and_carry_reasons(page):
    plots = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)]
    tips = [tip.text for svg in plots for tip in svg.iter("{http://www.w3.org/2000/svg}title") if tip.text]
    assert sum(tip.startswith("abort at 0%: because") for tip in tips) == 1
    assert any("x its threshold" in tip for tip in tips)


def test_plots_use_the_colors_of_the_page(page):
    svgs = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "currentColor" in svgs
    assert "#010203" not in svgs
    texts = re.findall(r"<text[^>]*>", svgs)
    # SVG's own default is black, which is not to be read on a dark page.
    assert texts
    assert all("fill: " in each and "fill: #000000" not in each for each in texts)


def test_captions_contain_figures(page):
    text = text_of(page)
    assert "this model was best in Oct (0.750) and worst in Dec (0.730)" in text
    assert "off by 7.5 percentage points on average" in text
    assert "3 of 9 windows drifted; alarms raised: 1" in text
    assert "version 2 replaces version 1" in text
    assert "76 seconds in total" in text
    assert "2 of 8 windows are worse than held-out rows" in text
    assert "On average over 8 windows, CBPE misses accuracy by 0.05" in text
    assert "Beyond the threshold now: x since 1970-05-01" in text
    assert "1.5 in total" in text
    assert "job-1 running" in " ".join(text.split())
    assert "9 0.2500 v1 0.5000 - -" in " ".join(text.split())
    assert "25% of it used" in text


def test_quality_cost_compares_labels_with_held_out_rows():
    entries = performance()
    assert quality_cost(106 * DAY_S, "1", entries).startswith("loss 0.")
    assert "% against held-out rows (400 labels)" in quality_cost(106 * DAY_S, "1", entries)
    assert quality_cost(200 * DAY_S, "1", entries) == quality_cost(106 * DAY_S, "2", entries) == "no labels yet"


def test_empty_report_says_so_in_every_section():
    page = render_report(MonitoringReport(model="new", made_at=0.0))
    # Only a project with limits has a section about groups.
    titles = [title for title in SECTIONS if title != "Differences between groups"]
    assert [title for title in SECTIONS if f"<h2>{title}</h2>" in page] == titles
    assert page.count('class="none"') == len(titles)
    assert "<svg" not in page


def test_equal_reports_render_to_equal_pages(report, page):
    assert render_report(report) == page


def test_alarm_outside_the_history_is_listed_without_a_mark():
    results, _ = drift()
    stray = AlarmOutcome(
        at=0.0, alarm=Alarm(model="m", version="9", window=5 * DAY_S, reason="old", features={}), outcome=""
    )
    assert "old" in render_report(MonitoringReport(model="m", made_at=0.0, drift=results, actions=(stray,)))


def test_windows_without_labels_are_drawn():
    bare = tuple(
        WindowQuality(version="1", window=i * DAY_S, labeled=LabeledLoss(rows=9), estimated={"DLE": {"mae": 1.0}})
        for i in range(3)
    )
    page = render_report(MonitoringReport(model="m", made_at=0.0, performance=bare))
    assert "0 of 3 windows are worse" in page
    assert page.count("<svg") == 2


def test_events_of_a_rollout_keep_their_order_when_the_clock_is_set_back(report: MonitoringReport) -> None:
    start, pause, abort = decisions("start", "pause", "abort")
    rollout = RolloutHistory(name="stepped", decisions=(start, pause, abort.model_copy(update={"at": start.at - 3600})))
    page = render_report(report.model_copy(update={"rollouts": (rollout,), "actions": ()}))
    events = page.partition("Events in order")[2]
    found = [events.index(text) for text in ("starts beside", "pauses", "is withdrawn")]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("confirm", "labels confirm version 2"),
        ("alarm", "labels show harm of version 2"),
        ("expire", "labels did not decide on version 2"),
        ("supersede", "version 2 replaces version 1"),
    ],
)
def test_what_labels_say_after_a_promotion_is_an_event_and_no_step(
    report: MonitoringReport, action: str, words: str
) -> None:
    rollout = RolloutHistory(name="late", decisions=decisions("start", "promote", action))
    page = render_report(report.model_copy(update={"rollouts": (rollout,), "actions": ()}))
    assert words in page.partition("Events in order")[2]
    assert f"tag {action}" in page
    assert "rollout-0-1" in page
    assert "rollout-0-2" not in page
