"""The door's own metrics: until when its certificates are valid, and when it last had a supervisor. Pure.

HAProxy answers with them from a map that the supervisor writes, so that they tell of its end, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

LEAST_VALIDITY = timedelta(days=14)
"""For how long a certificate should at least be valid; the alert and the doctor report one that expires sooner."""
SUPERVISED = "supervised"
"""Key of the moment at which the supervisor last looked after the door."""
PUBLIC, PEER, AUTHORITY = "public", "peer", "authority"
"""Keys of the moments until which certificates are valid: callers', other doors', and their authority's."""
_SUPERVISED_METRIC = "rayloop_door_supervised_timestamp_seconds"
_EXPIRY_METRIC = "rayloop_door_certificate_expiry_timestamp_seconds"
# Prometheus' own word for no value: no comparison with it is true.
_NONE = "NaN"


def render_status(file: Path) -> str:
    """Return the metrics' text, as a log format that looks every value up in the map ``file``."""

    def value(key: str) -> str:
        return f"%[str({key}),map({file},{_NONE})]"

    lines = [
        f"# TYPE {_SUPERVISED_METRIC} gauge",
        f"{_SUPERVISED_METRIC} {value(SUPERVISED)}",
        f"# TYPE {_EXPIRY_METRIC} gauge",
        *(f'{_EXPIRY_METRIC}{{certificate="{key}"}} {value(key)}' for key in (PUBLIC, PEER, AUTHORITY)),
    ]
    return "".join(f"{line}\n" for line in lines)


def render_status_map(moments: Mapping[str, float]) -> str:
    """Return the content of the map with which HAProxy starts.

    Args:
        moments: Unix time by key, seconds.
    """
    texts = dict.fromkeys((SUPERVISED, PUBLIC, PEER, AUTHORITY), _NONE) | _texts(moments)
    return "".join(f"{key} {text}\n" for key, text in texts.items())


def status_commands(file: Path, moments: Mapping[str, float]) -> Iterator[str]:
    """Yield the commands for the admin socket that set moments."""
    for key, text in _texts(moments).items():
        yield f"set map {file} {key} {text}"


def _texts(moments: Mapping[str, float]) -> dict[str, str]:
    return {key: f"{moment:.0f}" for key, moment in moments.items()}
