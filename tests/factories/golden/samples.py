"""Fixed values of everything that is stored, with every field set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from cluster.values import Alarm, Check, Decision, GateReport, ModelVersion, Snapshot, Task
from deployments.serve_schema import ChallengerConfig, ServerConfig, TrafficSplit
from deployments.serve_schema import RequestLimits as RequestLimits
from features.definitions import Aggregate, Column, Derived, Entity, FeatureSet, FeatureView, Latest
from features.encoder import Encoder
from features.manifest import Manifest
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from monitoring.analysis.analysis_scheduler import SchedulerState
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult, Finding, LabelCandidate, WindowQuality
from monitoring.analysis.multivariate_drift import MultivariateDrift
from monitoring.detection.alarm_actions import ActionRecord, AlarmEntry
from monitoring.detection.detector import ColumnResult, DetectorState, WindowResult
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy, NotificationTarget
from monitoring.export.cost import UsageTotals
from monitoring.performance.loss_bounds import LabeledLoss, LossBounds
from monitoring.runtime.state_store import MonitorState
from monitoring.samples.domain_classifier import Separability
from monitoring.statistics.distances import Distances
from monitoring.statistics.drift_reference import MonitoredColumn

BINARY = Task(kind="binary", label="late")
MULTICLASS = Task(kind="multiclass", label="tree", classes=("ash", "birch", "cedar"))
REGRESSION = Task(kind="regression", label="price")

# As Polars writes it, kept as text: what is stored must not depend on the version that is installed.
HOUR = (
    '{"Cast":{"expr":{"Function":{"input":[{"Column":"departs"}],"function":{"TemporalExpr":"Hour"}}},'
    '"dtype":{"Literal":"Float64"},"options":"Strict"}}'
)
REQUEST = (
    Column(name="distance", kind="number"),
    Column(name="carrier", kind="category"),
    Column(name="departs", kind="timestamp"),
    Column(name="passenger", kind="category", personal="hash"),
)
VIEW = FeatureView(
    name="delays",
    entity=Entity(name="carrier", keys=("carrier",)),
    source="flights",
    event_time="departed",
    known_at="known",
    aggregates=(
        Aggregate(column="delay", op="count", window=timedelta(hours=2), name="delay_count"),
        Aggregate(column="delay", op="sum", window=timedelta(hours=2), name="delay_sum"),
        Aggregate(column="delay", op="mean", window=timedelta(hours=2), name="delay_mean"),
        Aggregate(column="delay", op="std", window=timedelta(hours=6), name="delay_std"),
        Aggregate(column="delay", op="min", window=timedelta(hours=6), name="delay_min"),
        Aggregate(column="delay", op="max", window=timedelta(hours=6), name="delay_max"),
        Aggregate(column="gate", op="distinct", window=timedelta(hours=6), name="gates", kind="category"),
    ),
    latest=(Latest(column="delay", name="last_delay"), Latest(column="gate", name="last_gate", kind="category")),
    ttl=timedelta(days=1),
    strict=True,
    ties="number",
    owner="operations",
    description="delays of a carrier",
)
PAIR = FeatureView(
    name="pairs",
    entity=Entity(name="pair", keys=("carrier", "airport")),
    source="flights",
    event_time="departed",
    delay=timedelta(minutes=5),
    latest=(Latest(column="delay", name="pair_delay"),),
)
TRIPS = FeatureSet(
    name="trips",
    request=REQUEST[:3],
    derived=(Derived(name="hour", kind="number", expression=HOUR),),
    as_of=Derived(name="as_of", kind="timestamp", expression='{"Column":"departs"}'),
    features=("distance", "carrier", "hour"),
)
FLIGHTS = FeatureSet(name="flights", request=REQUEST, views=(VIEW,))
IMAGES = FeatureSet(name="images", request=(Column(name="pixels", kind="tensor", shape=(2, 3)),))
ENCODER = Encoder(columns=TRIPS.columns, vocabularies={"carrier": ("AA", "UA")})

CHECK = Check(name="auc", value=0.81, limit=0.7, passed=True, reason="auc 0.81 is at least 0.7")
REPORT = GateReport(checks=(CHECK,))
VERSION = ModelVersion(
    model="trips", version="7", run_id="run", bundle_uri="file:///bundle", tags={"rayloop.fingerprint": "ab12"}
)
USER_CONFIG = {
    "ModelServer": ServerConfig(
        champion=VERSION,
        split=TrafficSplit(rollout="r1", challengers=(VERSION,), starts=(0.0,), share=0.25, timeout_s=1.0, shadow=True),
        limits=RequestLimits(body_bytes=1000, rows=8),
    ).model_dump(mode="json"),
    "Challenger": ChallengerConfig(challenger=VERSION, rollout="r1", max_growth_mib=64.0).model_dump(mode="json"),
}
MANIFEST = Manifest(
    model="trips",
    task=BINARY,
    features=TRIPS,
    feature_hash=TRIPS.content_hash,
    encoder=ENCODER,
    snapshot=Snapshot(table="trips.frame_12345678", id=42, rows=100),
    code_version="abc123",
    recipe={"model": {"hidden": [16, 8], "dropout": 0.1}, "train": {"epochs": 2, "lr": 0.01, "gpu": "auto"}},
    metrics={"auc": 0.8},
    precision="int8",
)

ALARM = Alarm(model="trips", version="7", window=86400.0, reason="x moved", features={"x": 2.5}, kind="segment")
POLICY = DriftPolicy(
    window_s=3600.0,
    span=2,
    window_rows=500,
    false_alarms=1.0,
    test="all",
    watch=(MonitoredColumn(column="distance", direction="up"),),
    action="rollback",
    log_analysis=LogAnalysisPolicy(segments=("carrier",), actions={"quality": "retrain"}),
    notify=(NotificationTarget(url="http://hooks.example/drift", kind="webhook", secret_env="SECRET", timeout_s=2.0),),
)
_DISTANCES = Distances(
    rows=10, reference_rows=100, statistic=0.5, psi=0.25, jensen_shannon=0.125, chi_square=3.0, freedom=2,
    nulls=0.0, new=0.5,
)  # fmt: skip
RESULT = WindowResult(
    version="7",
    window=7200.0,
    since=3600.0,
    rows=600,
    judged=True,
    note="few runs",
    columns={
        "x": ColumnResult(
            distances=_DISTANCES,
            direction="up",
            threshold=0.25,
            ratio=2.0,
            p_value=0.001,
            watched=True,
            drifted=True,
            strongest="wasserstein",
            mean=1.5,
            reference_mean=0.5,
        )
    },
)
QUALITY = WindowQuality(
    version="7",
    window=7200.0,
    segment="carrier = AA",
    labeled=LabeledLoss(rows=100, n=50, mean=0.25, m2=1.5, binary=False),
    limits=LossBounds(low=0.125, high=0.5),
    reference=0.25,
    worse=True,
    observed={"auc": 0.75},
    estimated={"cbpe": {"auc": 0.8}},
)
LOOKED = AnalysisResult(
    version="7",
    window=7200.0,
    since=3600.0,
    rows=600,
    multivariate=MultivariateDrift(
        separation=Separability(auc=0.75, low=0.7, high=0.8, p_value=0.001, ranked=(("x", 0.9),)),
        p_value=0.01,
        drifted=True,
        ordinary=(0.5, 0.55),
    ),
    segments={"carrier = AA": RESULT},
    labels=RESULT,
    quality=(QUALITY,),
    label_candidates=(LabelCandidate(id="r/0", expected_loss=0.5),),
    findings=(Finding(kind="quality", window=7200.0, reason="worse", features={"loss": 1.5}, name="carrier = AA"),),
    faults=("labels: none came",),
)


def profile() -> Profile:
    """Of few rows: its sketches hold every value, and draw nothing."""
    result = Profile.empty((*TRIPS.columns, *IMAGES.columns))
    result.update(rows())
    return result


def reference() -> ReferenceProfile:
    return ReferenceProfile.build(profile_windows(rows(), (*TRIPS.columns, *IMAGES.columns), 3600.0), 3600.0)


def rows() -> pa.Table:
    """Six rows in two hours."""
    start = datetime(2024, 5, 1, 10, tzinfo=UTC)
    times = [start + timedelta(minutes=20 * i) for i in range(6)]
    return pa.table(
        {
            "distance": pa.array([0.5, -1.0, None, 2.0, float("inf"), 4.0]),
            "carrier": pa.array(["AA", "UA", "AA", None, "ZZ", "AA"]),
            "hour": pa.array([10.0, 10.0, 10.0, 11.0, 11.0, 11.0]),
            "pixels": pa.array([[float(i + j) for j in range(6)] for i in range(6)], pa.list_(pa.float32())),
            "as_of": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


STATE = MonitorState(
    model="trips",
    version="7",
    policy=POLICY,
    detector=DetectorState(recent=(True, False), drifting=True, quiet=1),
    closed=7200.0,
    windows={"7": {"10800.0": profile().to_bytes().decode()}},
    results=(RESULT,),
    journal=(
        AlarmEntry(
            at=1.5e9, alarm=ALARM, action="retrain", outcome="job-1", failed=True, notices={"http://hooks": "sent"}
        ),
    ),
    actions=(ActionRecord(action="retrain", window=7200.0),),
    scheduler=SchedulerState(
        due=AnalysisRequest(
            model="trips", version="7", windows=(3600.0, 7200.0), since=3600.0, policy=POLICY, ordinary=(0.5,)
        ),
        analyses=(LOOKED,),
        quality=(QUALITY,),
        episodes={"quality carrier = AA": 7200.0},
        ordinary=(0.5,),
    ),
    usage=UsageTotals(cpu_s=1.5, reserved_cpu_s=2.5, reserved_gpu_s=0.5, gib_s=4.0, requests=9),
    tags={"team": "flights"},
    counters={"windows": 2, "alarms": 1},
)


def decisions() -> tuple[Decision, ...]:
    """A rollout of two challengers, to its end."""
    steps = (
        ("start", 0.05, "1", ("2", "3"), {}),
        ("hold", 0.05, "1", ("2", "3"), {"requests": 12.0}),
        ("drop", 0.0, "1", ("3",), {"error_rate": 0.5}),
        ("pause", 0.25, "1", ("2",), {"gate": 0.25}),
        ("resume", 0.25, "1", ("2",), {}),
        ("promote", 0.0, "1", ("2",), {}),
    )
    return tuple(
        Decision.model_validate(
            {
                "rollout": "r1",
                "at": 1.7e9 + i,
                "action": action,
                "share": share,
                "reason": f"because {i}",
                "champion": champion,
                "challengers": challengers,
                "evidence": evidence,
            }
        )
        for i, (action, share, champion, challengers, evidence) in enumerate(steps)
    )
