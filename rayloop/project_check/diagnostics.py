"""What a check of a project finds."""

from __future__ import annotations

from typing import Literal

from cluster.errors import RayloopError
from cluster.values import Frozen

Severity = Literal["error", "warning"]


class Diagnostic(Frozen):
    """Something in a project that makes a run fail or its model wrong (error), or that a user should know (warning)."""

    severity: Severity
    code: str
    """A code of cluster/errors.toml."""
    where: str
    """The part of the project."""
    what: str
    """What is wrong."""
    todo: str
    """What to do about it."""

    @classmethod
    def from_error(cls, error: RayloopError, where: str, severity: Severity = "error") -> Diagnostic:
        """Return the diagnostic with the code and the sentences of an error."""
        return cls(severity=severity, code=error.code, where=where, what=error.what, todo=error.todo)

    def __str__(self) -> str:
        remedy = f"; {self.todo}" if self.todo else ""
        return f"{self.severity:<8} {self.where}: {self.what}{remedy} [{self.code}]"


class CheckReport(Frozen):
    """The result of a check."""

    project: str
    """Name of the project; its reference where it could not be loaded."""
    diagnostics: tuple[Diagnostic, ...]
    """Errors first."""
    facts: tuple[str, ...] = ()
    """What was looked at, and what the split gives."""
    unseen: tuple[str, ...] = ()
    """What was not looked at, and why."""
    seconds: float = 0.0
    """How long the check took."""

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(diagnostic.severity == "error" for diagnostic in self.diagnostics)

    def lines(self) -> list[str]:
        """Return the report for a terminal."""
        found = [str(diagnostic) for diagnostic in self.diagnostics]
        notes = [f"not looked at: {text}" for text in self.unseen]
        warnings = len(self.diagnostics) - self.errors
        summary = f"{self.project}: {_count(self.errors, 'error')}, {_count(warnings, 'warning')}"
        return [*found, *notes, *self.facts, f"{summary} ({self.seconds:.1f} s)"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
