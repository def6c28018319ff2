"""Frozen nouns that one stage hands to the next, and the names they agree on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cluster.errors import DataError

TaskKind = Literal["binary", "multiclass", "regression", "multilabel"]


class Frozen(BaseModel):
    """A value: immutable, compared by content, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class Stored(Frozen):
    """A value that outlives the process that wrote it: a later version reads it, and so may an earlier one.

    ``schema_version`` is the version of its format; a value without the field is of version 1. A class whose format
    changes declares a higher default, and converts older values in a validator of its own. In memory every value is of
    the newest format. A value that is part of a hash or fingerprint must not be one of these.
    """

    stored_as: ClassVar[str] = "stored value"
    """What an error calls it."""

    schema_version: int = Field(default=2, ge=1)

    @field_validator("schema_version")
    @classmethod
    def _not_newer(cls, version: int) -> int:
        # This field comes first: a newer format is refused as such before its other fields are looked at.
        return readable_version(version, cls.model_fields["schema_version"].default, cls.stored_as)

    @classmethod
    def from_stored(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read what any version up to this one wrote, as JSON or as its fields. Unknown fields are ignored, at any depth.

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
        raise DataError(
            f"{what} has schema version {version}, and this version of rayloop reads up to {newest}",
            "upgrade rayloop",
            code="stored.too_new",
            kind=what,
            version=version,
            newest=newest,
        )
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
    """A registered version: where its bundle lies and what it was made of."""

    model: str
    version: str
    run_id: str
    bundle_uri: str
    tags: dict[str, str] = {}

    @property
    def fingerprint(self) -> str:
        """Hash of all that determined this version; equal work has an equal fingerprint."""
        return self.tags.get("rayloop.fingerprint", "")

    @property
    def local_folder(self) -> Path | None:
        """The bundle's folder on this machine; None when it lies elsewhere and has to be fetched."""
        parsed = urlparse(self.bundle_uri)
        return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None

    def __str__(self) -> str:
        return f"{self.model} v{self.version}"


class Check(Frozen):
    """One threshold of a gate: what was measured, what was asked, whether it holds."""

    name: str
    value: float
    limit: float
    passed: bool
    reason: str


class GateReport(Stored):
    """The verdict on a candidate. It passes when every check does."""

    stored_as: ClassVar[str] = "gate report"

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


class Decision(Frozen):
    """One entry of a rollout's journal.

    ``at`` is seconds since the epoch, by the wall clock; ``share`` each challenger's share of requests in [0, 1] after
    the action. ``challengers`` are the versions that the entry is about: those on trial after it, the one that was
    dropped, promoted or rolled back, those that were on trial when all was aborted. ``champion`` is the version that they
    are compared with; of a rollback the one that answers again.
    """

    rollout: str
    at: float
    action: Literal["start", "hold", "advance", "drop", "promote", "abort", "pause", "resume", "rollback"]
    share: float
    reason: str
    champion: str
    challengers: tuple[str, ...]
    evidence: dict[str, float] = {}


AlarmKind = Literal["drift", "segment", "multivariate", "labels", "estimate", "quality"]
"""drift: a column moved. segment: within a part of the traffic. multivariate: what columns have in common. labels: what
came true. estimate: performance as it is estimated without labels. quality: performance by labels."""


class Alarm(Frozen):
    """What the drift monitor calls out, with its evidence.

    ``window`` is the start of the newest window that contributed, seconds since the epoch in
    event time; ``features`` maps a feature to its statistic divided by its threshold.
    """

    model: str
    version: str
    window: float
    reason: str
    features: dict[str, float]
    kind: AlarmKind = "drift"


class Usage(Frozen):
    """What a replica has held and used since it last told: seconds, of memory GiB times seconds."""

    replica: str
    cpu_s: float
    reserved_cpu_s: float
    reserved_gpu_s: float
    gib_s: float
    requests: int
