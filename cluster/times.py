"""Moments as text, for people, and in microseconds, as tables store them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def format_utc(at: datetime | float | None, style: str = "%Y-%m-%d %H:%M") -> str:
    """Format a moment in UTC; "never" for None.

    Args:
        at: An aware datetime, or seconds since the epoch.
        style: Format of ``strftime``; the date with hours and minutes by default.
    """
    if at is None:
        return "never"
    return (at.astimezone(UTC) if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)).strftime(style)


def epoch_microseconds(at: datetime | float) -> int:
    """Return a moment, an aware datetime or seconds since the epoch, in microseconds since the epoch."""
    return round((at.timestamp() if isinstance(at, datetime) else at) * 1_000_000)
