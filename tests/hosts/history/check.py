"""Judge a history: nothing is lost uncounted, nothing counts twice, and no rollout does what its journal forbids. Pure.

Each property is a function of the history alone, and says what users rely on, not how the product does it. All hold
whatever the faults were. A request without an answer, and an order without an acknowledgment, may have taken effect.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from tests.hosts.history.events import OK, Fault, History, Label, LabelRow, PredictionRow, Request
from tests.hosts.history.rollouts import illegal_steps, newest_rollout
from tests.hosts.history.variants import (
    answers_by_row,
    early_champions,
    late_answers,
    misplaced_keys,
    moved_keys,
    stale_splits,
    unlogged_answers,
)

BACK_S = 180.0
"""Seconds after the last fault within which each host answers again."""
RETRIED_S = 1.0
"""A request that took longer during a fault may have been sent to a second replica."""

Messages = Iterator[str]


class Violation(NamedTuple):
    """A property that does not hold, and where."""

    rule: str
    what: str


def check(history: History) -> list[Violation]:
    """Return every violation of every property."""
    return [Violation(rule, what) for rule, property in PROPERTIES.items() for what in property(history)]


def numbers_of_the_journal(history: History) -> Messages:
    """Entries are numbered from 1, in the order of their commits, without holes and repeats."""
    for place, entry in enumerate(history.journal, 1):
        if entry.sequence != place:
            yield f"entry {place} of the journal has number {entry.sequence}"


def one_writer(history: History) -> Messages:
    """Epochs never fall, and no key was appended twice: a writer that was replaced has written nothing since."""
    for before, after in pairwise(history.journal):
        if after.epoch < before.epoch:
            yield f"entry {after.sequence} of the journal has epoch {after.epoch}, after epoch {before.epoch}"
    newest: dict[tuple[str, str], int] = {}
    keys: Counter[tuple[str, str]] = Counter()
    for commit in history.commits:
        keys[commit.table, commit.key] += 1
        writer = commit.table, commit.writer
        if commit.epoch < newest.get(writer, 0):
            yield f"{commit.table}: commit {commit.key} after one of epoch {newest[writer]}"
        newest[writer] = max(commit.epoch, newest.get(writer, 0))
    yield from (f"{table}: key {key} was committed {count} times" for (table, key), count in keys.items() if count > 1)


def orders_in_the_journal(history: History) -> Messages:
    """An acknowledged order is in the journal exactly once; another one at most once."""
    for order in history.orders:
        entries = [entry for entry in history.journal if (entry.rollout, entry.reason) == (order.rollout, order.reason)]
        # The rollout may have aborted itself while the person's order was on its way.
        same = [entry for entry in history.journal if (entry.rollout, entry.action) == (order.rollout, order.action)]
        if order.acknowledged and len(same) != 1:
            yield f"{order.action} of {order.rollout}, acknowledged, is in the journal {len(same)} times"
        if len(entries) > 1:
            yield f"order {order.reason!r} is in the journal {len(entries)} times"
        if any(entry.action not in (order.action, "drop") for entry in entries):
            yield f"order {order.reason!r} became {[entry.action for entry in entries]}"


def aliases_of_the_journal(history: History) -> Messages:
    """In the end, the champion's alias is the journal's champion, and the challenger's the version on trial."""
    rollout = newest_rollout(history)
    expected = {"champion": rollout.champion}
    if len(rollout.challengers) == 1:
        expected["challenger"] = rollout.challengers[0]
    if history.journal and history.aliases != expected:
        yield f"aliases are {history.aliases}, and by the journal {expected}"


def predictions_are_counted(history: History) -> Messages:
    """An answer is in the log once, or in the counted loss; what the log has, a client sent."""
    yield from _count("prediction", history.requests, history.rows, history.lost_predictions, history.faults)


def labels_are_counted(history: History) -> Messages:
    """A label that was accepted is in the log once, with its value, or in the counted loss."""
    yield from _count("label", history.labels, history.label_rows, history.lost_labels, history.faults)
    values = {label.id: label.value for label in history.labels}
    for row in history.label_rows:
        if row.id in values and row.value != values[row.id]:
            yield f"label {row.id} is {row.value} in the log, and {values[row.id]} was sent"


def _count(
    kind: str,
    sent: Sequence[Request] | Sequence[Label],
    rows: Sequence[PredictionRow] | Sequence[LabelRow],
    lost: int,
    faults: Sequence[Fault],
) -> Messages:
    by_id = {event.id: event for event in sent}
    if len(by_id) < len(sent):
        yield f"{kind}s: {len(sent) - len(by_id)} ids were used twice"
    batches: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        batches[row.id].append(row.batch)
    yield from (f"{kind} {id}: in the log, and no client sent it" for id in batches if id not in by_id)
    retried = {event.id for event in sent if _may_be_retried(event, faults)}
    for id, places in batches.items():
        replicas = [place.rpartition(":")[0] for place in places]
        # A door sends a request whose replica was lost to another one: each may have logged it, but only once.
        if len(set(replicas)) < len(replicas) or (len(replicas) > 1 and id not in retried):
            yield f"{kind} {id}: in the log {len(places)} times, in batches {sorted(places)}"
    missing = [event for event in sent if event.id not in batches and event.outcome == OK]
    unclear = [event for event in sent if event.id not in batches and event.outcome != OK]
    # The row of a replica that was lost, of a request that another one answered.
    doubled = sum(event.id in batches for event in sent if event.id in retried)
    if lost < len(missing):
        first = ", ".join(event.id for event in missing[:3])
        yield f"{len(missing)} {kind}s are not in the log ({first}, …), and {lost} are counted as lost"
    if lost > len(missing) + len(unclear) + doubled:
        yield f"{lost} {kind}s are counted as lost, and at most {len(missing) + len(unclear) + doubled} are"


def _may_be_retried(event: Request | Label, faults: Sequence[Fault]) -> bool:
    """Whether a fault began while the request was under way, or held it up."""
    return any(
        event.sent <= fault.began <= event.ended
        or (event.ended - event.sent > RETRIED_S and event.sent < fault.ended and fault.began < event.ended)
        for fault in faults
    )


def hosts_are_back(history: History) -> Messages:
    """After the last fault each host answers again, in time and until the end."""
    healed = max((fault.ended for fault in history.faults), default=float("-inf"))
    for host in history.hosts:
        requests = sorted((r.sent, r.outcome, r.ended) for r in history.requests if r.host == host and r.sent >= healed)
        answered = [ended for _, outcome, ended in requests if outcome == OK]
        if not answered or (history.faults and answered[0] > healed + BACK_S):
            yield f"{host} does not answer within {BACK_S:.0f} s of the last fault"
        elif requests[-1][1] != OK:
            yield f"the last request to {host} ended with {requests[-1][1]}"


PROPERTIES: dict[str, Callable[[History], Messages]] = {
    "numbers of the journal": numbers_of_the_journal,
    "one writer": one_writer,
    "orders in the journal": orders_in_the_journal,
    "steps of a rollout": illegal_steps,
    "aliases": aliases_of_the_journal,
    "answers and their rows": answers_by_row,
    "keys keep their variant": moved_keys,
    "keys are where their hash puts them": misplaced_keys,
    "answers without a row": unlogged_answers,
    "splits in force": stale_splits,
    "an abort ends a challenger": late_answers,
    "a promotion makes a champion": early_champions,
    "predictions counted": predictions_are_counted,
    "labels counted": labels_are_counted,
    "hosts are back": hosts_are_back,
}
"""By the name that a violation has. A test breaks each of them."""
