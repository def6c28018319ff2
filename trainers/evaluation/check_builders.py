"""Builders of gate checks: value, limit, verdict and reason. A limit of None is no limit, and gives no check."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.values import Check


def at_least(name: str, value: float, limit: float | None, what: str) -> Iterator[Check]:
    """Passes when ``value`` >= ``limit``; NaN fails. ``what`` describes the value at the start of the reason."""
    if limit is not None:
        yield _check(name, value, limit, value >= limit, "at least", what)


def at_most(name: str, value: float, limit: float | None, what: str) -> Iterator[Check]:
    """Passes when ``value`` <= ``limit``; NaN fails. ``what`` describes the value at the start of the reason."""
    if limit is not None:
        yield _check(name, value, limit, value <= limit, "at most", what)


def _check(name: str, value: float, limit: float, passed: bool, relation: str, what: str) -> Check:
    reason = f"{what} {value:.4g} is {'' if passed else 'not '}{relation} {limit:.4g}"
    return Check(name=name, value=value, limit=limit, passed=bool(passed), reason=reason)
