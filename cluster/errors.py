"""Every error that rayloop raises on purpose.

    RayloopError                  exit code 2: one line for the user, no traceback
    ├── ProjectError              a project module that cannot be loaded, or contradicts itself
    ├── SettingsError             a setting with a value that cannot be used
    ├── DataError                 rows or columns that are not what was declared
    │   └── SnapshotNotFound      a table or snapshot that does not exist
    ├── OutOfMemory               the machine has less memory than the work needs
    ├── ClusterUnavailable        no Ray cluster answers
    │   └── PortInUse             a port that the cluster needs is in use
    ├── RegistryUnavailable       MLflow does not answer
    │   └── VersionNotFound       a model or version that is not registered
    ├── StoreUnavailable          the online store does not answer
    ├── GateFailed                a candidate did not pass its gate
    ├── RolloutError              a rollout that cannot be started or controlled
    └── RequestError              a request that cannot be answered (HTTP 4xx)

A message says what is wrong, where, and what to do about it. Its code is stable; the documentation lists all of them.
"""

from __future__ import annotations

from collections.abc import Mapping


class RayloopError(Exception):
    """Base of all deliberate errors.

    Args:
        what: What is wrong, and where.
        todo: What the user can do about it.
        code: Stable name of this failure, "area.what_is_wrong". Scripts and tests rely on it; sentences may change.
        fields: The values that the sentence mentions, by name.
    """

    area = "rayloop"

    def __init__(self, what: str, todo: str = "", *, code: str = "", **fields: object) -> None:
        super().__init__(what, todo)
        self.what = what
        self.todo = todo
        self.code = code or f"{self.area}.error"
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.what}; {self.todo}" if self.todo else self.what


class ProjectError(RayloopError):
    """A project module that cannot be loaded, or contradicts itself."""

    area = "project"


class SettingsError(RayloopError):
    """A setting with a value that cannot be used."""

    area = "settings"


class DataError(RayloopError):
    """Rows or columns that are not what was declared."""

    area = "data"


class SnapshotNotFound(DataError):
    """A table or snapshot that does not exist."""


class OutOfMemory(RayloopError):
    """The machine has less memory than the work needs."""

    area = "memory"


class ClusterUnavailable(RayloopError):
    """No Ray cluster answers."""

    area = "cluster"


class PortInUse(ClusterUnavailable):
    """A port that the cluster needs is in use."""


class RegistryUnavailable(RayloopError):
    """MLflow does not answer."""

    area = "registry"


class VersionNotFound(RegistryUnavailable):
    """A model or version that is not registered."""


class StoreUnavailable(RayloopError):
    """The online store does not answer."""

    area = "store"


class GateFailed(RayloopError):
    """A candidate did not pass its gate."""

    area = "gate"


class RolloutError(RayloopError):
    """A rollout that cannot be started or controlled."""

    area = "rollout"


class RequestError(RayloopError):
    """A request that cannot be answered as it stands.

    Args:
        what: What is wrong, and where.
        todo: What the caller can do about it.
        field: The part of the request at fault.
        status: HTTP status, 4xx.
        headers: Headers of the answer, such as ``Retry-After``.
        code: As in RayloopError.
        fields: As in RayloopError.
    """

    area = "request"

    def __init__(
        self,
        what: str,
        todo: str = "",
        *,
        field: str = "",
        status: int = 400,
        headers: Mapping[str, str] | None = None,
        code: str = "",
        **fields: object,
    ) -> None:
        super().__init__(what, todo, code=code, **fields)
        self.field = field
        self.status = status
        self.headers = dict(headers or {})
