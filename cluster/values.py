"""Values that one stage hands to the next: immutable, and free of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import unquote, urlparse

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from cluster.errors import DataError

TaskKind = Literal["binary", "multiclass", "regression", "multilabel"]


class Frozen(BaseModel):
    """Base of values: immutable, compared by content, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


def stored_name(name: str, stored: str) -> Any:
    """Annotation of a field that keeps its earlier name wherever it is stored; both names are read.

    Args:
        name: The field's name.
        stored: Its name in stored JSON.
    """
    return Field(validation_alias=AliasChoices(name, stored), serialization_alias=stored)


class Additive(Frozen):
    """A value whose fields add up one by one."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})


class Stored(Frozen):
    """A value that outlives the process that wrote it: a later version reads it, and so may an earlier one.

    ``schema_version`` is the version of its format; a value without the field is of version 1. A class whose format
    changes declares a higher default, and converts older values in its own validator. In memory every value is of the
    newest format. A value that is part of a hash or fingerprint must not be one of these.
    """

    stored_as: ClassVar[str] = "stored value"
    """What an error calls it; an argument of the class."""

    schema_version: int = Field(default=2, ge=1)

    def __init_subclass__(cls, stored_as: str = "", **config: Any) -> None:
        super().__init_subclass__(**config)
        cls.stored_as = stored_as or cls.stored_as

    @field_validator("schema_version")
    @classmethod
    def _not_newer(cls, version: int) -> int:
        # This field comes first: a newer format is refused as such before its other fields are read.
        return readable_version(version, cls.model_fields["schema_version"].default, cls.stored_as)

    @classmethod
    def from_stored(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read what any version up to this one wrote, as JSON or as fields. Unknown fields are ignored, at any depth.

        Raises:
            DataError: A newer version wrote it.
            ValidationError: It is not such a value.
        """
        if isinstance(data, Mapping):
            return cls.model_validate(data, extra="ignore")
        return cls.model_validate_json(data, extra="ignore")


def readable_version(version: int, newest: int, what: str) -> int:
    """The version in which a stored value is held in memory, the newest. Raises DataError when ``version`` is newer."""
    if version > newest:
        raise DataError("data.stored_too_new", kind=what, version=version, newest=newest)
    return newest


class Task(Frozen):
    """What a model predicts.

    Scores, everywhere in rayloop: binary, shape [n], the probability of the positive class;
    multiclass, shape [n, len(classes)], probabilities in the order of ``classes``;
    regression, shape [n], the value itself;
    multilabel, shape [n, len(classes)], the probability of each label by itself.
    Labels: binary 0.0 or 1.0; multiclass the index into ``classes``; regression the value; multilabel, shape
    [n, len(classes)], 0.0 or 1.0 for each of ``classes``.
    """

    kind: TaskKind
    label: str
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Number of scores for one row."""
        return len(self.classes) if self.wide else 1

    @property
    def wide(self) -> bool:
        """Whether scores have a column for each of ``classes``."""
        return self.kind in ("multiclass", "multilabel")

    @property
    def label_width(self) -> int:
        """Number of labels of one row."""
        return len(self.classes) if self.kind == "multilabel" else 1


class Snapshot(Frozen):
    """An immutable state of an Iceberg table."""

    table: str
    id: int
    rows: int


class ModelVersion(Frozen):
    """A registered version of a model."""

    model: str
    version: str
    run_id: str
    bundle_uri: str
    tags: dict[str, str] = {}

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determined this version; equal work has an equal fingerprint."""
        return self.tags.get("rayloop.fingerprint", "")

    @property
    def local_folder(self) -> Path | None:
        """The bundle's folder on this machine; None when it is elsewhere and has to be fetched."""
        parsed = urlparse(self.bundle_uri)
        return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None

    def __str__(self) -> str:
        return f"{self.model} v{self.version}"


class MoveMark(Stored, stored_as="mark of a model that moves"):
    """What the registry says of a model that moves to a second cluster: one rollout would be judged on two halves."""

    cluster: str
    """Session of the cluster that the requests come from."""
    share: float
    """Share of the requests that go to the second cluster, in [0, 1]."""

    def forbids_rollouts(self, cluster: str) -> bool:
        """Whether a cluster, by its session, may start no rollout of the model."""
        return self.share < 1.0 or cluster == self.cluster


class Check(Frozen):
    """A check of a gate: the measured value, its limit, and whether it passes."""

    name: str
    value: float
    limit: float
    passed: bool
    reason: str


class GateReport(Stored, stored_as="gate report"):
    """The result of a gate. It passes when every check does."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks pass."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that fail."""
        return tuple(check for check in self.checks if not check.passed)


AFTER_PROMOTION = ("rollback", "confirm", "alarm", "expire", "supersede")
"""Actions that follow a rollout's end. All but a rollback leave the promoted version (rollout/probation.py)."""


class Decision(Frozen):
    """One entry of a rollout's journal."""

    rollout: str
    """Id of the rollout."""
    at: float
    """Wall-clock time, in seconds since the epoch."""
    action: Literal[
        "start", "hold", "advance", "drop", "promote", "abort", "pause", "invalid", "resume", "rollback",
        "confirm", "alarm", "expire", "supersede",
    ]  # fmt: skip
    """Those in AFTER_PROMOTION follow its end."""
    share: float
    """Each challenger's share of requests after the action, in [0, 1]."""
    reason: str
    champion: str
    """The version that the challengers are compared with; in a rollback, the restored one."""
    challengers: tuple[str, ...]
    """The versions on trial after the action; in a drop, promotion or rollback the one concerned, in an abort all."""
    evidence: dict[str, float] = {}
    """Figures that the decision is based on."""


AlarmKind = Literal["drift", "segment", "multivariate", "labels", "estimate", "quality", "fairness"]
"""drift: the distribution of a column. segment: that within a part of the traffic. multivariate: the joint distribution
of columns. labels: the distribution of labels. estimate: performance, estimated without labels. quality: performance by
labels. fairness: the difference of a rate between groups."""


class Alarm(Frozen):
    """An alarm of the drift monitor, with its evidence."""

    model: str
    version: str
    window: float
    """Start of the newest window that contributed: event time, in seconds since the epoch."""
    reason: str
    features: dict[str, float]
    """Statistic divided by threshold, by feature."""
    kind: AlarmKind = "drift"
    level: float | None = None
    """What its window could spend on alarms of its kind: the probability of a false one. None: an earlier release."""
    monthly: float | None = None
    """False alarms of its kind that are expected in 30 days at this level, at most."""


class Usage(Frozen):
    """Resources that a replica reserved and used since its last report, in seconds; of memory in GiB times seconds."""

    replica: str
    cpu_s: float
    reserved_cpu_s: float
    reserved_gpu_s: float
    gib_s: float
    requests: int
