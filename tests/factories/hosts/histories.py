"""Correct histories of a simulated cluster under faults, and ways to spoil one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tests.hosts.history.events import (
    OK,
    Commit,
    Entry,
    Fault,
    History,
    Label,
    LabelRow,
    Order,
    PredictionRow,
    Request,
)
from tests.hosts.history.variants import in_slice

HOSTS = ("worker1", "worker2")
STEPS = (0.25, 0.5, 1.0)
_TICK_S = 0.25
_LAG_S = 0.5
_KEYS = 12


class _Split(NamedTuple):
    """What a replica serves."""

    champion: str
    rollout: str | None = None
    challenger: str = ""
    share: float = 0.0


class _Simulation:
    """Two hosts with a replica each, a controller and a log writer; the log has batches of one second."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now, self.numbers = 100.0, itertools.count(1)
        self.split = _Split("1")
        self.served = dict.fromkeys(HOSTS, self.split)
        self.replicas = {host: f"{host}-a" for host in HOSTS}
        self.events: dict[str, list[Any]] = {name: [] for name in History._fields}
        self.epoch, self.log_epoch = 1000, 1000
        self.lost = {"predictions": 0, "labels": 0}
        self.unshipped: dict[str, list[tuple[str, Any]]] = {host: [] for host in HOSTS}
        self.calm = False
        """Whether nothing fails any more."""

    def run(self) -> History:
        for rollout in range(self.random.randint(1, 3)):
            self._roll_out(f"visits-{rollout}")
        self.calm = True
        self._serve(3.0)
        for host in HOSTS:
            self._ship(host)
        aliases = {"champion": self.split.champion}
        if self.split.rollout:
            aliases["challenger"] = self.split.challenger
        values: dict[str, Any] = {name: tuple(events) for name, events in self.events.items()}
        values |= {"lost_predictions": self.lost["predictions"], "lost_labels": self.lost["labels"]}
        return History(**values | {"aliases": aliases, "hosts": HOSTS, "first_champion": "1"})

    def _roll_out(self, rollout: str) -> None:
        challenger = "2" if self.split.champion == "1" else "1"
        self._record(rollout, "start", _Split(self.split.champion, rollout, challenger, STEPS[0]), steps=STEPS)
        for share in STEPS[1:]:
            self._serve(self.random.uniform(1.0, 3.0))
            if self._end_by_order(rollout):
                return
            if self.random.random() < 0.3:
                self._record(rollout, "pause", self.split)
                self._serve(1.0)
                self._record(rollout, "resume", self.split)
            self._record(rollout, "advance", self.split._replace(share=share))
        self._serve(self.random.uniform(1.0, 3.0))
        if not self._end_by_order(rollout) and self.random.random() < 0.7:
            self._record(rollout, "promote", _Split(challenger), reason="not worse")
        elif self.split.rollout:
            self._record(rollout, "abort", _Split(self.split.champion), reason="worse")

    def _end_by_order(self, rollout: str) -> bool:
        """Perhaps order an end; the answer may get lost, and with it the order, or only its acknowledgment."""
        if self.random.random() > 0.4:
            return False
        action = self.random.choice(["abort", "promote"])
        reason, sent = f"order {next(self.numbers)}", self.now
        acknowledged = self.random.random() < 0.7
        took_effect = acknowledged or self.random.random() < 0.5
        if took_effect:
            champion = self.split.champion if action == "abort" else self.split.challenger
            self._record(rollout, action, _Split(champion), reason=reason)
        self.now += 0.2
        self.events["orders"].append(Order(action, reason, rollout, sent, self.now, acknowledged))
        return took_effect

    def _record(
        self, rollout: str, action: str, split: _Split, reason: str = "", steps: tuple[float, ...] = ()
    ) -> None:
        before, self.split = self.split, split
        if self.random.random() < 0.2:
            self.epoch += self.random.randint(1, 9)
        challenger = split.challenger or before.challenger
        champion = before.champion if action == "promote" else split.champion
        number = len(self.events["journal"]) + 1
        entry = Entry(number, self.epoch, rollout, action, split.share, champion, (challenger,), reason, False, steps)
        self.events["journal"].append(entry)
        self._commit("visits.journal", "rollout:visits", self.epoch)
        # The controller waits for every replica; one of them has it first.
        for host in self.random.sample(HOSTS, len(HOSTS)):
            self.served[host] = split
            self._serve(_LAG_S)

    def _commit(self, table: str, writer: str, epoch: int) -> None:
        self.events["commits"].append(Commit(table, writer, epoch, f"{epoch}:{next(self.numbers)}"))

    def _serve(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += _TICK_S
            for host in HOSTS:
                self._answer(host)
                if self.random.random() < 0.2:
                    self._ship(host)
            if not self.calm and self.random.random() < 0.02:
                self._fault(self.random.choice(HOSTS))

    def _answer(self, host: str) -> None:
        id, key = f"r{next(self.numbers)}", f"k{self.random.randrange(_KEYS)}"
        if not self.calm and self.random.random() < 0.03:
            ended, outcome, logged = self.now + 5.0, "timeout", self.random.random() < 0.5
            answer: tuple[Any, ...] = ()
        else:
            ended, outcome, logged = self.now + 0.02, OK, True
        row = self._row(id, key, self.served[host])
        if outcome == OK:
            answer = (row.version, row.variant, row.score)
        self.events["requests"].append(Request(id, key, host, self.now, ended, outcome, *answer))
        if logged:
            self.unshipped[host].append(("predictions", row))
        if outcome == OK and self.random.random() < 0.5:
            self._label(id, host)

    def _row(self, id: str, key: str, split: _Split) -> PredictionRow:
        by_challenger = split.rollout is not None and in_slice(
            split.rollout, key, split.challenger, (split.challenger,), split.share
        )
        failed = by_challenger and self.random.random() < 0.1
        variant = "challenger" if by_challenger and not failed else "champion"
        return PredictionRow(
            id=id,
            batch="",
            key=key,
            rollout=split.rollout,
            share=split.share,
            forced=False,
            assigned="challenger" if by_challenger else "champion",
            variant=variant,
            version=split.challenger if variant == "challenger" else split.champion,
            challenger=split.challenger if by_challenger else None,
            error="no answer within 1 s" if failed else None,
            score=self.random.random(),
        )

    def _label(self, id: str, host: str) -> None:
        accepted = self.random.random() < 0.95
        value = float(self.random.random() < 0.5)
        outcome = OK if accepted else "reset"
        self.events["labels"].append(Label(id, value, host, self.now + 0.03, self.now + 0.05, outcome))
        if accepted or self.random.random() < 0.5:
            self.unshipped[host].append(("labels", LabelRow(id, "", value)))

    def _ship(self, host: str) -> None:
        if self.random.random() < 0.1:
            self.log_epoch += 1
        for kind, name in (("predictions", "rows"), ("labels", "label_rows")):
            rows = [row for each, row in self.unshipped[host] if each == kind]
            batch = f"{self.replicas[host]}:{next(self.numbers)}"
            self.events[name] += [row._replace(batch=batch) for row in rows]
            if rows:
                self._commit(f"visits.{kind}", "ledger:visits", self.log_epoch)
        self.unshipped[host] = []

    def _fault(self, host: str) -> None:
        """A host is killed and back: what its replica has not shipped is lost, and counted."""
        began = self.now
        for kind, _ in self.unshipped[host]:
            self.lost[kind] += 1
        self.unshipped[host], self.replicas[host] = [], f"{host}-{next(self.numbers)}"
        for _ in range(3):
            self.now += _TICK_S
            id, key = f"r{next(self.numbers)}", f"k{self.random.randrange(_KEYS)}"
            self.events["requests"].append(Request(id, key, host, self.now, self.now, "refused"))
        self.events["faults"].append(Fault("kill", host, began, self.now))


def simulate(seed: int) -> History:
    """Return a correct history: rollouts, orders with and without an answer, killed replicas, replaced writers."""
    return _Simulation(seed).run()


Corruption = Callable[[History, Random], History | None]
"""Spoil a history in one place; None where it has no such place."""


def _change(events: tuple[Any, ...], place: int, *replacement: Any) -> tuple[Any, ...]:
    return (*events[:place], *replacement, *events[place + 1 :])


def _pick(random: Random, events: tuple[Any, ...], fits: Callable[[Any], bool] = lambda event: True) -> int | None:
    places = [place for place, event in enumerate(events) if fits(event)]
    return random.choice(places) if places else None


def _unlogged(history: History) -> int:
    rows = {row.id for row in history.rows}
    return sum(request.outcome == OK and request.id not in rows for request in history.requests)


def drop_rows(history: History, random: Random) -> History | None:
    """As many as no counted loss explains: lost rows of requests without an answer are counted too."""
    answered = {request.id for request in history.requests if request.outcome == OK}
    rows = [row for row in history.rows if row.id in answered]
    dropped = {row.id for row in random.sample(rows, history.lost_predictions - _unlogged(history) + 1)}
    return history._replace(rows=tuple(row for row in history.rows if row.id not in dropped))


def repeat_row(history: History, random: Random) -> History | None:
    place = _pick(random, history.rows)
    return None if place is None else history._replace(rows=(*history.rows, history.rows[place]))


def repeat_row_in_another_batch(history: History, random: Random) -> History | None:
    place = _pick(random, history.rows)
    if place is None:
        return None
    row = history.rows[place]
    return history._replace(rows=(*history.rows, row._replace(batch=f"{row.batch}9")))


def invent_row(history: History, random: Random) -> History | None:
    place = _pick(random, history.rows)
    return None if place is None else history._replace(rows=(*history.rows, history.rows[place]._replace(id="ghost")))


def count_too_few_losses(history: History, random: Random) -> History | None:
    unlogged = _unlogged(history)
    return history._replace(lost_predictions=random.randrange(unlogged)) if unlogged else None


def count_more_losses(history: History, random: Random) -> History | None:
    return history._replace(lost_predictions=history.lost_predictions + len(history.requests))


def drop_labels(history: History, random: Random) -> History | None:
    accepted = {label.id for label in history.labels if label.outcome == OK}
    rows = [row for row in history.label_rows if row.id in accepted]
    missing = len(accepted - {row.id for row in rows})
    if len(rows) <= history.lost_labels - missing:
        return None
    dropped = {row.id for row in random.sample(rows, history.lost_labels - missing + 1)}
    return history._replace(label_rows=tuple(row for row in history.label_rows if row.id not in dropped))


def repeat_label(history: History, random: Random) -> History | None:
    place = _pick(random, history.label_rows)
    return None if place is None else history._replace(label_rows=(*history.label_rows, history.label_rows[place]))


def flip_label(history: History, random: Random) -> History | None:
    place = _pick(random, history.label_rows)
    if place is None:
        return None
    row = history.label_rows[place]
    return history._replace(label_rows=_change(history.label_rows, place, row._replace(value=1.0 - row.value)))


def move_key(history: History, random: Random) -> History | None:
    """Both client and log say that the other variant answered, and that the split wanted it so."""
    answered = {request.id: place for place, request in enumerate(history.requests) if request.outcome == OK}
    place = _pick(random, history.rows, lambda row: row.id in answered and row.rollout and row.challenger is None)
    if place is None:
        return None
    row = history.rows[place]
    (challenger,) = next(entry.challengers for entry in history.journal if entry.rollout == row.rollout)
    moved = row._replace(assigned="challenger", variant="challenger", version=challenger, challenger=challenger)
    request = history.requests[answered[row.id]]._replace(version=challenger, variant="challenger")
    requests = _change(history.requests, answered[row.id], request)
    return history._replace(rows=_change(history.rows, place, moved), requests=requests)


def swap_variant_of_answer(history: History, random: Random) -> History | None:
    rows = {row.id for row in history.rows}
    place = _pick(random, history.requests, lambda request: request.id in rows and request.outcome == OK)
    if place is None:
        return None
    request = history.requests[place]
    other = "champion" if request.variant == "challenger" else "challenger"
    return history._replace(requests=_change(history.requests, place, request._replace(variant=other)))


def change_score(history: History, random: Random) -> History | None:
    rows = {row.id for row in history.rows}
    place = _pick(random, history.requests, lambda request: request.id in rows and request.score is not None)
    if place is None:
        return None
    request = history.requests[place]
    return history._replace(requests=_change(history.requests, place, request._replace(score=request.score + 0.1)))


def answer_with_unknown_share(history: History, random: Random) -> History | None:
    place = _pick(random, history.rows, lambda row: row.rollout)
    if place is None:
        return None
    row = history.rows[place]
    return history._replace(rows=_change(history.rows, place, row._replace(share=row.share * 0.9)))


def answer_with_unknown_version(history: History, random: Random) -> History | None:
    place = _pick(random, history.requests, lambda request: request.outcome == OK)
    if place is None:
        return None
    request = history.requests[place]._replace(version="9")
    rows = tuple(row._replace(version="9") if row.id == request.id else row for row in history.rows)
    return history._replace(requests=_change(history.requests, place, request), rows=rows)


def drop_entry(history: History, random: Random) -> History | None:
    place = _pick(random, history.journal)
    # The last number may be missing without a hole.
    if place is None or place + 1 == len(history.journal):
        return None
    return history._replace(journal=_change(history.journal, place))


def repeat_entry(history: History, random: Random) -> History | None:
    place = _pick(random, history.journal)
    return None if place is None else history._replace(journal=(*history.journal, history.journal[place]))


def repeat_entry_under_its_own_number(history: History, random: Random) -> History | None:
    """What a controller would append that does not know that its first try had arrived."""
    place = _pick(random, history.journal, lambda entry: entry.action not in ("pause", "resume"))
    if place is None:
        return None
    journal = _change(history.journal, place, history.journal[place], history.journal[place])
    return history._replace(journal=_renumber(journal))


def lower_epoch(history: History, random: Random) -> History | None:
    if len(history.journal) < 2:
        return None
    place = random.randrange(1, len(history.journal))
    entry = history.journal[place]._replace(epoch=history.journal[place - 1].epoch - 1)
    return history._replace(journal=_change(history.journal, place, entry))


def commit_after_a_newer_writer(history: History, random: Random) -> History | None:
    place = _pick(random, history.commits)
    if place is None:
        return None
    commit = history.commits[place]
    late = commit._replace(epoch=commit.epoch - 1, key="late")
    return history._replace(commits=_change(history.commits, place, commit, late))


def commit_a_key_twice(history: History, random: Random) -> History | None:
    place = _pick(random, history.commits)
    return None if place is None else history._replace(commits=(*history.commits, history.commits[place]))


def promote_too_early(history: History, random: Random) -> History | None:
    """The first advance is a promotion, which nothing but evidence at the last step allows."""
    place = _pick(random, history.journal, lambda entry: entry.action == "start")
    if place is None:
        return None
    start = history.journal[place]
    promotion = start._replace(action="promote", share=0.0, reason="not worse", steps=())
    return history._replace(journal=_renumber(_change(history.journal, place, start, promotion)))


def promote_another_version(history: History, random: Random) -> History | None:
    place = _pick(random, history.journal, lambda entry: entry.action == "promote")
    if place is None:
        return None
    entry = history.journal[place]._replace(challengers=("9",))
    return history._replace(journal=_change(history.journal, place, entry))


def forget_acknowledged_order(history: History, random: Random) -> History | None:
    acknowledged = {order.reason for order in history.orders if order.acknowledged}
    place = _pick(random, history.journal, lambda entry: entry.reason in acknowledged)
    if place is None:
        return None
    return history._replace(journal=_renumber(_change(history.journal, place)))


def answer_after_the_abort(history: History, random: Random) -> History | None:
    place = _pick(random, history.orders, lambda order: order.action == "abort" and order.acknowledged)
    if place is None:
        return None
    order = history.orders[place]
    done = _pick(random, history.rows, lambda row: row.rollout == order.rollout and row.variant == "challenger")
    if done is None:
        return None
    late = next((r for r in history.requests if r.id == history.rows[done].id and r.outcome == OK), None)
    if late is None:
        return None
    request = late._replace(id="late", sent=order.ended + 1.5, ended=order.ended + 1.6)
    row = history.rows[done]._replace(id="late", batch="late:1")
    return history._replace(requests=(*history.requests, request), rows=(*history.rows, row))


def point_alias_elsewhere(history: History, random: Random) -> History | None:
    return history._replace(aliases={**history.aliases, "champion": "9"})


def silence_host(history: History, random: Random) -> History | None:
    """The host answers nothing after the last fault."""
    host, healed = random.choice(history.hosts), max((fault.ended for fault in history.faults), default=0.0)
    requests = tuple(
        request._replace(outcome="refused", version="", variant="", score=None)
        if request.host == host and request.sent >= healed
        else request
        for request in history.requests
    )
    return history._replace(requests=requests)


def _renumber(journal: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return tuple(entry._replace(sequence=number) for number, entry in enumerate(journal, 1))


CORRUPTIONS: tuple[tuple[Corruption, str], ...] = (
    (drop_rows, "predictions counted"),
    (repeat_row, "predictions counted"),
    (repeat_row_in_another_batch, "predictions counted"),
    (invent_row, "predictions counted"),
    (count_too_few_losses, "predictions counted"),
    (count_more_losses, "predictions counted"),
    (drop_labels, "labels counted"),
    (repeat_label, "labels counted"),
    (flip_label, "labels counted"),
    (move_key, "keys are where their hash puts them"),
    (swap_variant_of_answer, "answers and their rows"),
    (change_score, "answers and their rows"),
    (answer_with_unknown_share, "keys are where their hash puts them"),
    (answer_with_unknown_version, ""),
    (drop_entry, "numbers of the journal"),
    (repeat_entry, "numbers of the journal"),
    (repeat_entry_under_its_own_number, "steps of a rollout"),
    (lower_epoch, "one writer"),
    (commit_after_a_newer_writer, "one writer"),
    (commit_a_key_twice, "one writer"),
    (promote_too_early, "steps of a rollout"),
    (promote_another_version, "steps of a rollout"),
    (forget_acknowledged_order, "orders in the journal"),
    (answer_after_the_abort, "an abort ends a challenger"),
    (point_alias_elsewhere, "aliases"),
    (silence_host, "hosts are back"),
)
"""Each with the property that it breaks; empty: one of several, by what the history has there."""
