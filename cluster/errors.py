"""Every error that rayloop raises on purpose.

    RayloopError                  exit code 2: one line for the user, no traceback
    ├── ProjectError              a project module that cannot be loaded, or contradicts itself
    ├── SettingsError             a setting with a value that cannot be used
    ├── DataError                 rows or columns that are not what was declared
    │   └── SnapshotNotFound      a table or snapshot that does not exist
    ├── OutOfMemory               the machine has less memory than the work needs
    ├── ClusterUnavailable        no Ray cluster answers
    │   └── PortInUse             a port that the cluster needs is taken
    ├── RegistryUnavailable       MLflow does not answer
    │   └── VersionNotFound       a model or version that is not registered
    ├── StoreUnavailable          the online store does not answer
    ├── GateFailed                a candidate did not pass its gate
    ├── RolloutError              a rollout that cannot be started or steered
    └── RequestError              a request that cannot be answered (HTTP 4xx)

A message says what was wrong, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping


class RayloopError(Exception):
    """Base of all deliberate errors. ``what`` and ``todo`` make up the line the user reads."""

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(what, todo)
        self.what = what
        self.todo = todo

    def __str__(self) -> str:
        return f"{self.what}; {self.todo}" if self.todo else self.what


class ProjectError(RayloopError):
    """A project module that cannot be loaded, or contradicts itself."""


class SettingsError(RayloopError):
    """A setting with a value that cannot be used."""


class DataError(RayloopError):
    """Rows or columns that are not what was declared."""


class SnapshotNotFound(DataError):
    """A table or snapshot that does not exist."""


class OutOfMemory(RayloopError):
    """The machine has less memory than the work needs."""


class ClusterUnavailable(RayloopError):
    """No Ray cluster answers."""


class PortInUse(ClusterUnavailable):
    """A port that the cluster needs is taken by somebody else."""


class RegistryUnavailable(RayloopError):
    """MLflow does not answer."""


class VersionNotFound(RegistryUnavailable):
    """A model or version that is not registered."""


class StoreUnavailable(RayloopError):
    """The online store does not answer."""


class GateFailed(RayloopError):
    """A candidate did not pass its gate."""


class RolloutError(RayloopError):
    """A rollout that cannot be started or steered."""


class RequestError(RayloopError):
    """A request that cannot be answered as it stands.

    ``status`` is the HTTP status (4xx); ``field`` names the offending part of the request; ``headers`` belong to the
    answer, such as ``Retry-After``.
    """

    def __init__(
        self, what: str, *, field: str = "", status: int = 400, todo: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what, todo)
        self.field = field
        self.status = status
        self.headers = dict(headers or {})
