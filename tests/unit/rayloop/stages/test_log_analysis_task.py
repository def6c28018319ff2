"""A log analysis: it reads frame, log and labels of its version and windows, and queues label candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DataError
from cluster.names import journal_table, label_candidates_table, labels_table, predictions_table
from cluster.registry import Registry
from cluster.row_losses import row_loss
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Decision, ModelVersion, Snapshot
from deployments.rollout.journal import RolloutJournal
from deployments.rollout_policy import RolloutPolicy
from deployments.telemetry.prediction_log import PredictionBatch, prediction_rows
from features.disparity import DisparityLimit
from features.manifest import Manifest
from features.split import TEST, TRAIN
from monitoring.analysis.log_analysis import AnalysisRequest
from monitoring.drift_policy import DAY_S, DriftPolicy, LogAnalysisPolicy
from monitoring.samples.logged_rows import LoggedRows
from rayloop.retraining.retrain_gains import RETRAINED_BECAUSE
from rayloop.stages.log_analysis_task import LogAnalysisTask, answered_rows, live_rows, reference_rows
from tests.factories.deployments.bundles import Slope, register, write_bundle
from tests.factories.deployments.tasks import BINARY
from tests.factories.errors import raises

pytestmark = pytest.mark.long

MODEL = "trips"
POLICY = DriftPolicy(
    span=1, min_rows=100, log_analysis=LogAnalysisPolicy(segments=("carrier",), sample=500, to_label=7)
)
FIRST, PER_DAY = 20_000, 300


def frame(rng: np.random.Generator, first: int, days: int, *, shift: float = 0.0, shift_of_aa: float = 0.0) -> pa.Table:
    n = days * PER_DAY
    when = np.repeat((first + np.arange(days)) * DAY_S, PER_DAY) + rng.uniform(0, DAY_S - 1, n)
    moments = pa.array((when * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC"))
    distance, carrier = rng.normal(shift, 1, n), rng.choice(["AA", "UA"], n)
    return pa.table(
        {
            "distance": distance + shift_of_aa * (carrier == "AA"),
            "carrier": carrier,
            "departs": moments,
            "hour": (when // 3600 % 24).astype(float),
            "as_of": moments,
        }
    )


def truth(rng: np.random.Generator, rows: pa.Table) -> np.ndarray:
    chance = 1 / (1 + np.exp(-2 * rows["distance"].to_numpy()))
    return (rng.random(rows.num_rows) < chance).astype(float)


class World:
    """A registered version, the frame it was made of, and days that it has answered."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.tables = Tables(self.settings)
        self.rng = np.random.default_rng(5)
        rows = frame(self.rng, FIRST, 40)
        split = np.where(np.arange(rows.num_rows) < 30 * PER_DAY, TRAIN, TEST)
        ids = pa.array([f"t{i}" for i in range(rows.num_rows)])
        past = rows.append_column("id", ids).append_column("label", pa.array(truth(self.rng, rows)))
        snapshot = self.tables.append(f"{MODEL}.frame", past.append_column("split", pa.array(split)))
        folder = write_bundle(home / "bundle", Slope(2.0))
        Manifest.load(folder).model_copy(update={"snapshot": snapshot}).save(folder)
        self.version: ModelVersion = register(Registry(self.settings), MODEL, folder)

    def answer(self, first: int, days: int, *, version: str = "1", at_us: int = 0, **shifts: float) -> list[str]:
        rows = frame(self.rng, first, days, **shifts)
        scores = 1 / (1 + np.exp(-2 * rows["distance"].to_numpy()))
        names = [f"{version}-{first}-{i}" for i in range(rows.num_rows)]
        batch = PredictionBatch(
            requests=names,
            keys=names,
            forced=[False] * len(names),
            sizes=[1] * len(names),
            frame=rows,
            task=BINARY,
            champion_version=version,
            version=version,
            assigned="champion",
            variant="champion",
            at_us=at_us,
            champion_latency_ms=1.0,
            champion=scores,
        )
        self.scores = scores
        logged = prediction_rows([batch], f"r:{first}")
        self.tables.append(predictions_table(MODEL), logged)
        self.truths = dict(zip(logged["id"].to_pylist(), truth(self.rng, rows), strict=True))
        return logged["id"].to_pylist()

    def label(self, ids: list[str], values: list[float], received: int = 0) -> None:
        stamp = pa.array([received] * len(ids), pa.timestamp("us", "UTC"))
        rows = pa.table({"id": ids, "label": pa.array(values, pa.float64()), "time": stamp, "received": stamp})
        self.tables.append(labels_table(MODEL), rows.append_column("batch", pa.array(["b"] * len(ids))))

    def live_rows(self, request: AnalysisRequest) -> LoggedRows:
        return live_rows(self.tables, BINARY, MODEL, answered_rows(self.tables, BINARY, request))

    def analysis_request(self, *days: int) -> AnalysisRequest:
        windows = tuple(day * DAY_S for day in days)
        return AnalysisRequest(
            model=MODEL, version=self.version.version, windows=windows, since=windows[-1], policy=POLICY
        )


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("home"))


@pytest.fixture
def world(shared_world: World) -> World:
    """With nothing answered yet."""
    for name in (f(MODEL) for f in (predictions_table, labels_table, label_candidates_table, journal_table)):
        shared_world.tables.drop(name)
    return shared_world


def test_reference_rows_are_those_of_the_version_with_its_scores(world):
    folder = Registry(world.settings).fetch(world.version)
    past = reference_rows(world.tables, folder, Manifest.load(folder), world.analysis_request(FIRST + 50))
    assert (len(past.train), len(past.held_out)) == (30 * PER_DAY, 10 * PER_DAY)
    assert np.isfinite(past.held_out.labels).all()
    distance = past.train.frame["distance"].to_numpy()
    assert past.train.scores == pytest.approx(1 / (1 + np.exp(-2 * distance)), abs=1e-4)
    assert past.train.times.max() < past.held_out.times.min()


def test_live_rows_are_those_of_the_windows_and_version_with_newest_labels(world):
    world.answer(FIRST + 49, 1)
    ids = world.answer(FIRST + 50, 2)
    world.answer(FIRST + 51, 1, version="2")
    world.label(ids[:50], [0.0] * 50)
    world.label(ids[:20], [1.0] * 20, received=9)
    world.label(["unlisted"], [1.0])
    live = world.live_rows(world.analysis_request(FIRST + 50, FIRST + 51))
    assert sorted(live.ids) == sorted(ids)
    assert (np.nansum(live.labels), np.isfinite(live.labels).sum()) == (20, 50)
    assert set(live.frame.column_names) >= {"distance", "carrier", "hour"}


def test_difference_between_groups_of_a_logged_column_is_found(world):
    world.answer(FIRST + 50, 2)
    world.answer(FIRST + 52, 2, shift_of_aa=1.0)
    limit = DisparityLimit(column="carrier", rate="positive", max_difference=0.1, groups=("AA", "UA"))
    policy = POLICY.model_copy(update={"log_analysis": LogAnalysisPolicy(disparity=(limit,))})
    days = [FIRST + day for day in range(50, 54)]
    analyses = [
        LogAnalysisTask(world.settings)(world.analysis_request(*those).model_copy(update={"policy": policy}))
        for those in (days[:2], days)
    ]
    assert [[f.name for f in each.findings if f.kind == "fairness"] for each in analyses] == [[], [limit.name]]
    (disparity,) = analyses[1].disparities
    assert disparity.since == days[2] * DAY_S
    assert disparity.extremes == ("AA", "UA")


def test_sample_of_the_same_log_is_the_same(world):
    world.answer(FIRST + 50, 1)
    few = POLICY.model_copy(update={"log_analysis": LogAnalysisPolicy(rows=1_000)})
    request = world.analysis_request(FIRST + 50).model_copy(update={"policy": few})
    world.answer(FIRST + 50, 1, version="1")
    first, second = (world.live_rows(request) for _ in range(2))
    assert list(first.ids) == list(second.ids)


def test_log_analysis_finds_drift_and_queues_label_candidates_once(world):
    ids = world.answer(FIRST + 50, 1, shift=1.5)
    world.label(ids[:150], [1.0 - world.truths[i] for i in ids[:150]])
    analyze = LogAnalysisTask(world.settings)
    result = analyze(world.analysis_request(FIRST + 50))
    assert {"multivariate", "segment", "quality"} <= {f.kind for f in result.findings}
    assert {f.name for f in result.findings if f.kind == "segment"} == {"carrier = AA", "carrier = UA"}
    assert next(iter(result.multivariate.separation.ranked))[0] == "distance"
    analyze(world.analysis_request(FIRST + 50))
    queued = world.tables.read(label_candidates_table(MODEL))
    assert queued.num_rows == 7
    assert set(queued["id"].to_pylist()) <= set(ids[150:])


def test_log_analysis_of_deleted_data_is_refused(world):
    world.answer(FIRST + 50, 1)
    with raises(DataError, "data.no_logged_rows", version="1"):
        world.live_rows(world.analysis_request(FIRST + 60))
    folder = Registry(world.settings).fetch(world.version)
    manifest = Manifest.load(folder).model_copy(update={"snapshot": Snapshot(table=f"{MODEL}.frame", id=1, rows=1)})
    with raises(DataError, "data.frame_expired"):
        reference_rows(world.tables, folder, manifest, world.analysis_request(FIRST + 50))


def promoted(at: float) -> Decision:
    return Decision(
        rollout="r1", at=at, action="promote", share=1.0, reason="", champion="2", challengers=("3",), evidence={}
    )


def test_rows_of_a_retrained_version_are_scored_by_the_one_that_it_replaced(world):
    """v3 has the slope that the labels follow, v2 half of it; rows before the promotion do not count."""
    registry = Registry(world.settings)
    snapshot = Manifest.load(registry.fetch(world.version)).snapshot
    for name, slope in (("replaced", 1.0), ("retrained", 2.0)):
        folder = write_bundle(world.settings.home / name, Slope(slope))
        Manifest.load(folder).model_copy(update={"snapshot": snapshot}).save(folder)
        retrained = register(registry, MODEL, folder)
    assert retrained.version == "3"
    early, late = world.answer(FIRST + 50, 1, version="3"), world.answer(FIRST + 51, 1, version="3", at_us=10**6)
    world.label(early + late[:200], [world.truths.get(i, 1.0) for i in early + late[:200]])
    request = world.analysis_request(FIRST + 50, FIRST + 51).model_copy(update={"version": "3"})
    analyze = LogAnalysisTask(world.settings)
    RolloutJournal(MODEL, world.tables).record(promoted(1.0), RolloutPolicy())
    # Only a retrained version has a gain, whatever it replaced.
    assert analyze(request).gains == ()
    registry.set_tag(retrained, RETRAINED_BECAUSE, "by hand")
    result = analyze(request)
    assert result.faults == ()
    (gain,) = result.gains
    assert (gain.version, gain.replaced, gain.window, gain.losses.rows) == ("3", "2", (FIRST + 51) * DAY_S, 200)
    labels = np.array([world.truths[i] for i in late[:200]])
    chances = world.scores[:200]
    assert gain.losses.loss == pytest.approx(row_loss(BINARY, chances, labels).sum(), rel=1e-5)
    half = 1 / (1 + np.sqrt((1 - chances) / chances))
    assert gain.losses.replaced == pytest.approx(row_loss(BINARY, half, labels).sum(), rel=1e-4)
