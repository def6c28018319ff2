"""Builders of gate checks: value, limit, verdict and reason."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.values import Check


def at_least(name: str, value: float, limit: float, what: str) -> Check:
    """Passes when ``value`` >= ``limit``; NaN fails. ``what`` describes the value at the start of the reason."""
    return _check(name, value, limit, value >= limit, "at least", what)


def at_most(name: str, value: float, limit: float, what: str) -> Check:
    """Passes when ``value`` <= ``limit``; NaN fails. ``what`` describes the value at the start of the reason."""
    return _check(name, value, limit, value <= limit, "at most", what)


def at_most_if_limited(name: str, value: float, limit: float | None, what: str) -> Iterator[Check]:
    """``at_most`` when there is a limit, otherwise no check."""
    if limit is not None:
        yield at_most(name, value, limit, what)


def _check(name: str, value: float, limit: float, passed: bool, relation: str, what: str) -> Check:
    outcome = "" if passed else "not "
    return Check(
        name=name,
        value=value,
        limit=limit,
        passed=bool(passed),
        reason=f"{what} {value:.4g} is {outcome}{relation} {limit:.4g}",
    )
