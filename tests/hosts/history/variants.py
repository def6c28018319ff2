"""Which version may answer which key, by the splits of the journal. Pure.

A split is monotone: as a rollout's share grows, keys move to the challenger only, and its end moves all of them at
once. A replica that was cut off lags behind, so that properties of keys compare shares, which each row of the log has,
and not times. Only hashing is the product's, and only ``misplaced_keys`` and ``unlogged_answers`` need it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from deployments.traffic_split import hash_position, slice_start
from tests.hosts.history.events import OK, Entry, History, PredictionRow, Request
from tests.hosts.history.rollouts import newest_rollout

ABORT_S = 1.0
"""Seconds after the acknowledgment of an abort from which its challenger answers no new request."""
SETTLE_S = 30.0
"""Seconds within which every replica has an advance, once no fault keeps it away."""
_SAME_SCORE = 1e-6
"""An answer has 32 bits, the log 64."""


def answers_by_row(history: History) -> Iterator[str]:
    """What a client got is what the log says; a row's version and variant are those of its split."""
    requests = {request.id: request for request in history.requests}
    starts, champions = _starts(history), newest_rollout(history).champions
    for row in history.rows:
        if wrong := _wrong_variant(row, starts, champions):
            yield f"row {row.id}: {wrong}"
        request = requests.get(row.id)
        if request is None:
            continue
        if request.key != row.key:
            yield f"row {row.id} has key {row.key}, and the request {request.key}"
        if request.outcome == OK and not _same_answer(request, row):
            got, logged = (request.version, request.variant, request.score), (row.version, row.variant, row.score)
            yield f"{row.id} was answered with {got}, and the log has {logged}"


def _same_answer(request: Request, row: PredictionRow) -> bool:
    if request.score is None or row.score is None:
        return False
    same_score = math.isclose(request.score, row.score, rel_tol=_SAME_SCORE, abs_tol=_SAME_SCORE)
    return same_score and (request.version, request.variant) == (row.version, row.variant)


def _wrong_variant(row: PredictionRow, starts: dict[str, Entry], champions: set[str]) -> str:
    """Why this version may not answer, whatever the key; empty if it may."""
    start = starts.get(row.rollout or "")
    if row.rollout is not None and start is None:
        return f"no journal has rollout {row.rollout}"
    if row.variant == "champion" and row.version not in ({start.champion} if start else champions):
        return f"version {row.version} answers as champion"
    if row.variant == "challenger" and row.version not in (start.challengers if start else ()):
        return f"version {row.version} answers as challenger"
    if (row.assigned == "challenger") != (row.challenger is not None):
        return f"{row.assigned} is assigned, and the challenger is {row.challenger}"
    if row.variant == "challenger" and row.version != row.challenger:
        return f"version {row.version} answers for {row.challenger or 'the champion'}"
    if row.assigned == "challenger" and row.variant == "champion" and not row.error:
        return "the champion answers for a challenger that did not fail"
    return ""


def moved_keys(history: History) -> Iterator[str]:
    """Within a rollout a key stays with its challenger as the share grows, for as long as that is on trial."""
    left = _left(history)
    smallest: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    rows = [row for row in history.rows if row.rollout is not None and not row.forced]
    for row in rows:
        shares = smallest[row.rollout or "", row.key]
        if row.challenger is not None:
            shares[row.challenger] = min(row.share, shares.get(row.challenger, math.inf))
    for row in rows:
        for version, share in smallest[row.rollout or "", row.key].items():
            if version != row.challenger and share <= row.share and version not in left[row.rollout or ""]:
                yield f"row {row.id}: key {row.key} is not version {version}'s any more, at a share of {row.share}"


def misplaced_keys(history: History) -> Iterator[str]:
    """A share is one that the journal had before, and a key goes where its hash puts it."""
    starts, shares, left = _starts(history), _shares(history), _left(history)
    for row in history.rows:
        if row.rollout not in starts or row.forced:
            continue
        challengers = starts[row.rollout].challengers
        if not any(math.isclose(row.share, share) for share in shares[row.rollout]):
            yield f"row {row.id}: the journal of {row.rollout} has no share {row.share}"
        owners = [v for v in challengers if in_slice(row.rollout, row.key, v, challengers, row.share)]
        gone = row.challenger is None and (not owners or {*owners} & left[row.rollout])
        if row.challenger not in owners and not gone:
            yield f"row {row.id}: key {row.key} goes to {row.challenger or 'the champion'}, and not to {owners}"


def unlogged_answers(history: History) -> Iterator[str]:
    """An answer that the log lacks is one that some split of the journal explains."""
    logged, starts, shares = {row.id for row in history.rows}, _starts(history), _shares(history)
    champions = newest_rollout(history).champions
    for request in history.requests:
        if request.outcome != OK or request.id in logged:
            continue
        if request.variant == "champion":
            explained = request.version in champions
        else:
            explained = any(
                request.version in start.challengers
                and in_slice(rollout, request.key, request.version, start.challengers, max(shares[rollout]))
                for rollout, start in starts.items()
            )
        if not explained:
            yield f"{request.id}: no split gives key {request.key} to version {request.version} as {request.variant}"


def stale_splits(history: History) -> Iterator[str]:
    """Once a client has seen a share, no replica uses an earlier one for long, unless a fault keeps it away."""
    requests = {request.id: request for request in history.requests}
    order: dict[tuple[str, float], int] = {}
    for place, entry in enumerate(history.journal):
        # A remark may come late, and has the share of what it is about.
        order.setdefault((entry.rollout, entry.share), place)
    first_seen: dict[str, dict[int, float]] = defaultdict(dict)
    rows = []
    for row in history.rows:
        place, request = order.get((row.rollout or "", row.share)), requests.get(row.id)
        if row.rollout is not None and place is not None and request is not None and request.outcome == OK:
            rows.append((row, place, request))
            seen = first_seen[row.rollout]
            seen[place] = min(request.ended, seen.get(place, math.inf))
    for row, place, request in rows:
        later = [at for other, at in first_seen[row.rollout or ""].items() if other > place]
        calm = max([min(later, default=math.inf), *(f.ended for f in history.faults if f.began <= request.sent)])
        if request.sent > calm + SETTLE_S:
            yield f"row {row.id}: share {row.share} of {row.rollout}, {request.sent - calm:.0f} s after a later one"


def late_answers(history: History) -> Iterator[str]:
    """A challenger answers no request that was sent after its abort was acknowledged."""
    rows = {row.id: row for row in history.rows}
    started = [entry.rollout for entry in history.journal if entry.action == "start"]
    starts = _starts(history)
    for order in history.orders:
        if not (order.action == "abort" and order.acknowledged and order.rollout in starts):
            continue
        later = {v for each in started[started.index(order.rollout) + 1 :] for v in starts[each].challengers}
        for request in history.requests:
            row = rows.get(request.id)
            # Without a row, it may be of a later rollout of the same version.
            of_rollout = row.rollout == order.rollout if row else request.version not in later
            is_late = request.variant == "challenger" and request.sent > order.ended + ABORT_S
            if is_late and of_rollout and request.version in starts[order.rollout].challengers:
                late_s = request.sent - order.ended
                yield f"{request.id}: version {request.version} answers {late_s:.1f} s after its end"


def early_champions(history: History) -> Iterator[str]:
    """No version answers as champion before the order that promoted it, unless it was champion before."""
    orders = {(order.rollout, order.reason): order.sent for order in history.orders if order.action == "promote"}
    since = {history.first_champion: -math.inf}
    for entry in history.journal:
        if entry.action in ("promote", "rollback"):
            version = entry.champion if entry.action == "rollback" else entry.challengers[0]
            # Evidence promotes at a time that no client knows.
            since.setdefault(version, orders.get((entry.rollout, entry.reason), -math.inf))
    for request in history.requests:
        if request.variant == "champion" and request.ended < since.get(request.version, -math.inf):
            yield f"{request.id}: version {request.version} answers as champion before its promotion is ordered"


def in_slice(rollout: str, key: str, version: str, challengers: tuple[str, ...], share: float) -> bool:
    """Whether a key is in the part of the circle that a challenger has at a share."""
    begin = slice_start(challengers.index(version), len(challengers))
    return (hash_position(rollout, key) - begin) % 1.0 < share


def _starts(history: History) -> dict[str, Entry]:
    return {entry.rollout: entry for entry in history.journal if entry.action == "start"}


def _shares(history: History) -> dict[str, set[float]]:
    shares: dict[str, set[float]] = defaultdict(set)
    for entry in history.journal:
        if entry.share > 0.0:
            shares[entry.rollout].add(entry.share)
    return shares


def _left(history: History) -> dict[str, set[str]]:
    """By rollout, challengers that went before its end, whose keys the champion got."""
    left: dict[str, set[str]] = defaultdict(set)
    starts = _starts(history)
    for entry in history.journal:
        if entry.action == "drop":
            left[entry.rollout] |= {*entry.challengers}
        if entry.action == "advance" and entry.rollout in starts:
            left[entry.rollout] |= {*starts[entry.rollout].challengers} - {*entry.challengers}
    return left
