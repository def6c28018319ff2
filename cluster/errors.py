"""Every error that rayloop raises on purpose.

    RayloopError                  exit code 2: one line for the user, no traceback
    ├── ProjectError              a project module that cannot be loaded, or contradicts itself
    ├── SettingsError             a setting with a value that cannot be used
    ├── DataError                 rows or columns that are not what was declared
    │   └── SnapshotNotFound      a table or snapshot that does not exist
    ├── OutOfMemory               the machine has less memory than the work needs
    ├── ClusterUnavailable        no Ray cluster answers
    │   ├── PortInUse             a port that the cluster needs is in use
    │   └── CallTimeout           a store or an actor does not answer in time
    ├── WriterReplaced            a writer that another one has replaced
    ├── ClaimOutdated             an epoch that the writer itself has replaced
    ├── RegistryUnavailable       MLflow does not answer
    │   └── VersionNotFound       a model or version that is not registered
    ├── StoreUnavailable          the online store does not answer
    ├── BackupError               a backup that cannot be made or restored
    ├── GateFailed                a candidate did not pass its gate
    ├── RolloutError              a rollout that cannot be started or controlled
    └── RequestError              a request that cannot be answered (HTTP 4xx)

A raise names a code and the values of its message: ``DataError("data.table_empty", table=name)``. The messages are in
errors.toml, by code: what is wrong, where, and what to do about it. Codes are stable; the documentation lists all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


class RayloopError(Exception):
    """Base of all deliberate errors.

    Args:
        code: Stable name of this failure, "area.what_is_wrong". Scripts and tests rely on it; sentences may change.
        fields: The values that its message mentions, by name, and others that a script needs.
    """

    def __init__(self, code: str, /, **fields: object) -> None:
        super().__init__(code)
        self.code = code
        self.fields = fields

    @property
    def what(self) -> str:
        """What is wrong, and where."""
        return self._render("what")

    @property
    def todo(self) -> str:
        """What the user can do about it."""
        return self._render("todo")

    def _render(self, part: str) -> str:
        template: str = messages()[self.code].get(part, "")
        lists = {name: _Items(value) for name, value in self.fields.items() if isinstance(value, list | tuple)}
        return template.format_map(self.fields | lists)

    def __str__(self) -> str:
        return f"{self.what}; {todo}" if (todo := self.todo) else self.what


@cache
def messages() -> Mapping[str, Mapping[str, Any]]:
    """Return the messages of errors.toml by code; they are read on the first error."""
    import tomllib

    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


class _Items(list[Any]):
    """A list as messages write it: its items, separated by commas; ``!r`` quotes each."""

    def __str__(self) -> str:
        return ", ".join(map(str, self)) or "none"

    def __repr__(self) -> str:
        return ", ".join(map(repr, self)) or "none"


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
    """A port that the cluster needs is in use."""


class CallTimeout(ClusterUnavailable):
    """A store or an actor does not answer in time. The call may still take effect."""


class WriterReplaced(RayloopError):
    """Another writer has taken the place of this one, which may not write any more."""


class ClaimOutdated(RayloopError):
    """A writer's epoch is not its newest: it must renew its claim, and read what is stored."""


class RegistryUnavailable(RayloopError):
    """MLflow does not answer."""


class VersionNotFound(RegistryUnavailable):
    """A model or version that is not registered."""


class StoreUnavailable(RayloopError):
    """The online store does not answer, or cannot be used."""


class BackupError(RayloopError):
    """A backup that cannot be made or restored."""


class GateFailed(RayloopError):
    """A candidate did not pass its gate."""


class RolloutError(RayloopError):
    """A rollout that cannot be started or controlled."""


class RequestError(RayloopError):
    """A request that cannot be answered as it stands.

    Args:
        code: As in RayloopError.
        field: The part of the request at fault.
        headers: Headers of the answer, such as ``Retry-After``.
        fields: As in RayloopError.
    """

    def __init__(
        self, code: str, /, *, field: str = "", headers: Mapping[str, str] | None = None, **fields: object
    ) -> None:
        super().__init__(code, **fields)
        self.field = field
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """HTTP status, 400 unless errors.toml has another."""
        return int(messages()[self.code].get("status", 400))
