"""The checker of histories accepts what a correct cluster does under faults, and finds whatever is spoiled in it."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories.effort import examples
from tests.factories.hosts.histories import CORRUPTIONS, Corruption, simulate
from tests.hosts.history.check import BACK_S, PROPERTIES, check
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
from tests.hosts.history.rollouts import illegal_steps
from tests.hosts.history.variants import ABORT_S, SETTLE_S, in_slice

SEEDS = st.integers(0, 2**32)
ROLLOUT = "visits-2"
EARLY, LATE = (
    next(f"k{i}" for i in range(99) if in_slice(ROLLOUT, f"k{i}", "2", ("2",), 0.5) is early) for early in (True, False)
)
"""A key that goes to the challenger at a share of 0.5, and one that goes at 1.0 only."""
START = Entry(1, 10, ROLLOUT, "start", 0.5, "1", ("2",), "on trial", steps=(0.5, 1.0))
ADVANCE = Entry(2, 10, ROLLOUT, "advance", 1.0, "1", ("2",), "not worse")
PROMOTE = Entry(3, 10, ROLLOUT, "promote", 0.0, "1", ("2",), "not worse")
ABORT = Entry(3, 10, ROLLOUT, "abort", 0.0, "1", ("2",), "too slow")
REMARK = Entry(3, 10, ROLLOUT, "hold", 0.5, "1", ("2",), "a webhook did not answer")
"""It comes late, and is about the first step."""
ORDER = Order("abort", "too slow", ROLLOUT, 120.0, 121.0, True)
LABEL = Label("r1", 1.0, "worker1", 101.0, 101.1, OK)
LABEL_ROW = LabelRow("r1", "a:2", 1.0)


def answer(
    number: int,
    key: str = EARLY,
    share: float = 0.5,
    *,
    at: float = 0.0,
    sent_key: str = "",
    logged: float = 0.5,
    logged_share: float | None = None,
    batch: str = "a:1",
    **changes: Any,
) -> tuple[Request, PredictionRow]:
    """A request of 0.1 s at second 100 + number, as the split of a share answers it, and its row.

    ``changes`` are those of the row; version and variant also change what the client got.
    """
    to_challenger = in_slice(ROLLOUT, key, "2", ("2",), share)
    variant, challenger = ("challenger", "2") if to_challenger else ("champion", None)
    row = PredictionRow(
        id=f"r{number}",
        batch=batch,
        key=key,
        rollout=ROLLOUT,
        share=share if logged_share is None else logged_share,
        forced=False,
        assigned=variant,
        variant=variant,
        version=challenger or "1",
        challenger=challenger,
        error=None,
        score=logged,
    )._replace(**changes)
    at = at or 100.0 + number
    return Request(row.id, sent_key or key, "worker1", at, at + 0.1, OK, row.version, row.variant, 0.5), row


SECOND = next(f"k{i}" for i in range(99) if in_slice(ROLLOUT, f"k{i}", "3", ("2", "3"), 0.25))
"""A key of the second of two challengers."""
SECOND_ANSWERS: dict[str, Any] = {
    "assigned": "challenger",
    "variant": "challenger",
    "version": "3",
    "challenger": "3",
}
HASH = "keys are where their hash puts them"
CHAMPION: dict[str, Any] = {"assigned": "champion", "variant": "champion", "version": "1", "challenger": None}
NO_ROLLOUT: dict[str, Any] = CHAMPION | {"version": "2", "rollout": None, "logged_share": 0.0}
ACTIVE: dict[str, Any] = {
    "journal": (START, ADVANCE),
    "orders": (),
    "aliases": {"champion": "1", "challenger": "2"},
}
"""The rollout has not ended."""
RETRY = (Fault("kill", "worker2", 101.05, 101.08),)
"""While the first request was under way."""


def unanswered(number: int) -> tuple[Request, None]:
    """A request without an answer, and without a row."""
    return Request(f"r{number}", EARLY, "worker1", 100.0 + number, 100.5 + number, "refused"), None


def history(*answers: tuple[Request, PredictionRow | None], **changes: Any) -> History:
    """A rollout that advances, and that an order aborts."""
    requests, rows = zip(*answers or (answer(1),), strict=True)
    base = History(
        requests=requests,
        rows=tuple(row for row in rows if row is not None),
        orders=(ORDER,),
        journal=(START, ADVANCE, ABORT),
        aliases={"champion": "1"},
        hosts=("worker1",),
        first_champion="1",
    )
    return base._replace(**changes)


def promoted(*answers: tuple[Request, PredictionRow | None], **changes: Any) -> History:
    """The same rollout, promoted by evidence."""
    base: dict[str, Any] = {"orders": (), "journal": (START, ADVANCE, PROMOTE), "aliases": {"champion": "2"}}
    return history(*answers, **base | changes)


def two_challengers(*answers: tuple[Request, PredictionRow | None], dropped: bool = False) -> History:
    """A rollout of versions 2 and 3, which order aborts; perhaps version 3 is dropped first."""
    start = START._replace(share=0.25, challengers=("2", "3"))
    drop = Entry(2, 10, ROLLOUT, "drop", 0.25, "1", ("3",), "worse")
    journal = (start, drop, ABORT) if dropped else (start, ABORT._replace(sequence=2))
    return history(*answers, journal=journal)


def ordered_promotion(*answers: tuple[Request, PredictionRow | None]) -> History:
    """The same rollout, promoted by order at its first step."""
    promotion = PROMOTE._replace(sequence=2, reason=ORDER.reason)
    return promoted(*answers, orders=(ORDER._replace(action="promote"),), journal=(START, promotion))


def unlogged(*answers: tuple[Request, PredictionRow | None], **changes: Any) -> History:
    """Answers whose rows were lost, and counted."""
    return history(*answers, **{"rows": (), "lost_predictions": len(answers)} | changes)


def slow(number: int) -> tuple[Request, PredictionRow]:
    request, row = answer(number)
    return request._replace(ended=request.sent + 1.5), row


def answered_late(number: int) -> tuple[Request, PredictionRow]:
    """A request whose client did not wait for the answer."""
    request, row = answer(number)
    return request._replace(outcome="timeout", version="", variant="", score=None), row


class Pair(NamedTuple):
    """A history that breaks one property, and its nearest neighbor that breaks none."""

    rule: str
    name: str
    broken: History
    neighbor: History
    also: tuple[str, ...] = ()
    """Properties that such a history cannot but break as well."""


PAIRS = (
    Pair(
        "numbers of the journal",
        "hole",
        history(journal=(START, ADVANCE._replace(sequence=3), ABORT._replace(sequence=4))),
        history(),
    ),
    Pair(
        "numbers of the journal",
        "swapped",
        history(journal=(START, ADVANCE._replace(sequence=3), ABORT._replace(sequence=2))),
        history(),
    ),
    Pair(
        "one writer",
        "epoch falls",
        history(journal=(START, ADVANCE._replace(epoch=12), ABORT._replace(epoch=11))),
        history(journal=(START, ADVANCE._replace(epoch=12), ABORT._replace(epoch=12))),
    ),
    Pair(
        "one writer",
        "replaced log writer commits",
        history(commits=(Commit("predictions", "ledger", 2, "a"), Commit("predictions", "ledger", 1, "b"))),
        history(commits=(Commit("predictions", "ledger", 2, "a"), Commit("predictions", "other ledger", 1, "b"))),
    ),
    Pair(
        "one writer",
        "commit is repeated",
        history(commits=(Commit("predictions", "ledger", 1, "a"), Commit("predictions", "ledger", 1, "a"))),
        history(commits=(Commit("predictions", "ledger", 1, "a"), Commit("labels", "ledger", 1, "a"))),
    ),
    Pair(
        "orders in the journal",
        "acknowledged and lost",
        promoted(orders=(ORDER,)),
        promoted(orders=(ORDER._replace(acknowledged=False),)),
    ),
    Pair(
        "orders in the journal",
        "became something else",
        promoted(
            orders=(ORDER._replace(acknowledged=False),),
            journal=(START, ADVANCE, PROMOTE._replace(reason=ORDER.reason)),
        ),
        # The judge was faster.
        history(journal=(START, ADVANCE, ABORT._replace(reason="worse"))),
    ),
    Pair(
        "steps of a rollout",
        "promoted below the last step",
        promoted(journal=(START, PROMOTE._replace(sequence=2))),
        ordered_promotion(answer(1)),
    ),
    Pair(
        "steps of a rollout",
        "promoted after the abort",
        promoted(journal=(START, ADVANCE, ABORT, PROMOTE._replace(sequence=4))),
        history(journal=(START, ADVANCE, ABORT, PROMOTE._replace(sequence=4, action="hold"))),
    ),
    Pair(
        "steps of a rollout",
        "skips one",
        history(journal=(START._replace(steps=(0.5, 0.7, 1.0)), ADVANCE, ABORT)),
        history(journal=(START._replace(steps=(0.5, 1.0)), ADVANCE, ABORT)),
    ),
    Pair(
        "steps of a rollout",
        "advances while it is held",
        history(
            journal=(
                START,
                START._replace(sequence=2, action="pause", steps=()),
                ADVANCE._replace(sequence=3),
                ABORT._replace(sequence=4),
            )
        ),
        history(
            journal=(
                START,
                START._replace(sequence=2, action="pause", steps=()),
                START._replace(sequence=3, action="resume", steps=()),
                ADVANCE._replace(sequence=4),
                ABORT._replace(sequence=5),
            )
        ),
    ),
    Pair(
        "steps of a rollout",
        "passes a closed gate",
        history(journal=(START._replace(gates=(0.5,)), ADVANCE, ABORT)),
        history(
            journal=(
                START._replace(gates=(0.5,)),
                START._replace(sequence=2, action="pause", steps=(), at_gate=True),
                START._replace(sequence=3, action="resume", steps=()),
                ADVANCE._replace(sequence=4),
                ABORT._replace(sequence=5),
            )
        ),
    ),
    Pair(
        "steps of a rollout",
        "next champion is another one",
        history(
            journal=(START, ADVANCE, ABORT, START._replace(sequence=4, rollout="visits-3", champion="3")),
            aliases={"champion": "3", "challenger": "2"},
        ),
        history(
            journal=(START, ADVANCE, ABORT, START._replace(sequence=4, rollout="visits-3")),
            aliases={"champion": "1", "challenger": "2"},
        ),
    ),
    Pair("aliases", "champion", history(aliases={"champion": "2"}), promoted(aliases={"champion": "2"})),
    Pair(
        "aliases",
        "challenger after the end",
        history(aliases={"champion": "1", "challenger": "2"}),
        history(journal=(START, ADVANCE), aliases={"champion": "1", "challenger": "2"}, orders=()),
    ),
    Pair(
        "answers and their rows",
        "client got another score",
        history(answer(1, logged=0.6)),
        # An answer has 32 bits.
        history(answer(1, logged=0.5 + 1e-8)),
    ),
    Pair("answers and their rows", "score is not in the log", history(answer(1, score=None)), history(answer(1))),
    Pair(
        "answers and their rows", "client sent another key", history(answer(1, sent_key="another")), history(answer(1))
    ),
    Pair(
        "answers and their rows",
        "champion answers for no reason",
        history(answer(1, variant="champion", version="1")),
        history(answer(1, variant="champion", version="1", error="no answer within 1 s")),
    ),
    Pair(
        "answers and their rows",
        "unknown champion",
        history(answer(1, key=LATE, version="3")),
        history(answer(1, key=LATE, version="1")),
    ),
    Pair(
        "keys keep their variant",
        "moved back as the share grew",
        history(answer(1), answer(2, EARLY, 1.0, **CHAMPION)),
        history(answer(1, LATE, 0.5), answer(2, LATE, 1.0)),
        also=(HASH,),
    ),
    Pair(
        "keys keep their variant",
        "moved back at the same share",
        history(answer(1), answer(2, **CHAMPION)),
        history(answer(1), answer(2, forced=True, **CHAMPION)),
        also=(HASH,),
    ),
    Pair(
        "keys keep their variant",
        "moved from a challenger that is on trial",
        two_challengers(answer(1, SECOND, 0.25, **SECOND_ANSWERS), answer(2, SECOND, 0.25, **CHAMPION)),
        two_challengers(answer(1, SECOND, 0.25, **SECOND_ANSWERS), answer(2, SECOND, 0.25, **CHAMPION), dropped=True),
        also=(HASH,),
    ),
    Pair(HASH, "moved by no split", history(answer(1, LATE, 1.0, logged_share=0.5)), history(answer(1, LATE, 1.0))),
    Pair(HASH, "share of no step", history(answer(1, share=0.7)), history(answer(1, share=0.5))),
    Pair(HASH, "share of nothing", history(answer(1, LATE, 0.0)), history(answer(1, LATE, 0.5))),
    Pair(
        HASH,
        "challenger of another key",
        two_challengers(answer(1, SECOND, 0.25, **SECOND_ANSWERS | {"challenger": "2", "version": "2"})),
        two_challengers(answer(1, SECOND, 0.25, **SECOND_ANSWERS)),
    ),
    Pair(
        HASH,
        "champion has a key of a challenger on trial",
        two_challengers(answer(1, SECOND, 0.25, **CHAMPION)),
        two_challengers(answer(1, SECOND, 0.25, **CHAMPION), dropped=True),
    ),
    Pair(
        "answers without a row",
        "share came later",
        unlogged(answer(1, LATE, 1.0), journal=(START, ABORT._replace(sequence=2))),
        unlogged(answer(1, LATE, 1.0)),
    ),
    Pair(
        "answers without a row",
        "unknown champion",
        unlogged(answer(1, LATE, version="2", variant="champion")),
        promoted(answer(1, LATE, version="2", variant="champion"), rows=(), lost_predictions=1),
    ),
    Pair(
        "splits in force",
        "replica lags for no reason",
        history(answer(1, share=1.0), answer(2, at=102.0 + SETTLE_S), **ACTIVE),
        history(
            answer(1, share=1.0),
            answer(2, at=102.0 + SETTLE_S),
            faults=(Fault("partition", "worker1", 101.5, 102.5),),
            **ACTIVE,
        ),
    ),
    Pair(
        "splits in force",
        "remark comes late",
        history(answer(1, share=1.0), answer(2, at=102.0 + SETTLE_S), **ACTIVE),
        history(answer(1), answer(2, share=1.0, at=102.0 + SETTLE_S), **ACTIVE | {"journal": (START, ADVANCE, REMARK)}),
    ),
    Pair(
        "an abort ends a challenger",
        "answers after it",
        history(answer(1, at=ORDER.ended + ABORT_S + 0.1)),
        history(answer(1, at=ORDER.ended + ABORT_S - 0.1)),
    ),
    Pair(
        "an abort ends a challenger",
        "answers after it without a row",
        unlogged(answer(1, at=ORDER.ended + ABORT_S + 0.1)),
        unlogged(
            answer(1, at=ORDER.ended + ABORT_S + 0.1),
            journal=(START, ADVANCE, ABORT, START._replace(sequence=4, rollout="visits-3")),
            aliases={"champion": "1", "challenger": "2"},
        ),
    ),
    Pair(
        "a promotion makes a champion",
        "answers before it",
        ordered_promotion(answer(1, at=119.0, **NO_ROLLOUT)),
        ordered_promotion(answer(1, at=120.5, **NO_ROLLOUT)),
    ),
    Pair("predictions counted", "lost", history(rows=()), history(rows=(), lost_predictions=1)),
    Pair(
        "orders in the journal",
        "repeated",
        history(
            journal=(START, ADVANCE._replace(reason=ORDER.reason, action="drop"), ABORT),
            orders=(ORDER._replace(acknowledged=False),),
        ),
        history(orders=(ORDER._replace(acknowledged=False),)),
        also=("steps of a rollout",),
    ),
    Pair(
        "predictions counted",
        "loss without an answer, which the log has",
        history(answer(1), answered_late(2), answer(3), lost_predictions=1),
        history(answer(1), unanswered(2), answer(3), lost_predictions=1),
    ),
    Pair(
        "predictions counted",
        "loss of a slow request without a fault",
        history(slow(1), lost_predictions=1),
        history(slow(1), answer(15), lost_predictions=1, faults=(Fault("freeze", "worker2", 90.0, 102.0),)),
    ),
    Pair(
        "predictions counted",
        "loss of a quick request during a fault",
        history(answer(1), answer(15), lost_predictions=1, faults=(Fault("freeze", "worker2", 90.0, 102.0),)),
        history(slow(1), answer(15), lost_predictions=1, faults=(Fault("freeze", "worker2", 90.0, 102.0),)),
    ),
    Pair(
        "predictions counted",
        "loss of a slow request after a fault",
        history(slow(13), lost_predictions=1, faults=(Fault("freeze", "worker2", 90.0, 102.0),)),
        history(slow(1), answer(15), lost_predictions=1, faults=(Fault("freeze", "worker2", 90.0, 102.0),)),
    ),
    Pair(
        "predictions counted",
        "loss is counted that is none",
        history(answer(1), answer(2), lost_predictions=1),
        history(answer(1), unanswered(2), answer(3), lost_predictions=1),
    ),
    Pair(
        "predictions counted",
        "batch twice",
        history(answer(1), answer(1), requests=answer(1)[:1], faults=RETRY, hosts=()),
        history(answer(1), answer(1, batch="b:1"), requests=answer(1)[:1], faults=RETRY, hosts=()),
    ),
    Pair(
        "predictions counted",
        "two replicas without a fault",
        history(answer(1), answer(1, batch="b:1"), requests=answer(1)[:1]),
        history(answer(1), answer(1, batch="b:1"), requests=answer(1)[:1], faults=RETRY, hosts=()),
    ),
    Pair("predictions counted", "never sent", history(answer(1), answer(2), requests=answer(1)[:1]), history()),
    Pair(
        "labels counted",
        "lost",
        history(labels=(LABEL,)),
        history(labels=(LABEL._replace(outcome="timeout"),)),
    ),
    Pair(
        "labels counted",
        "twice",
        history(labels=(LABEL,), label_rows=(LABEL_ROW, LABEL_ROW)),
        history(labels=(LABEL,), label_rows=(LABEL_ROW,)),
    ),
    Pair(
        "labels counted",
        "another value",
        history(labels=(LABEL,), label_rows=(LABEL_ROW._replace(value=0.0),)),
        history(labels=(LABEL,), label_rows=(LABEL_ROW,)),
    ),
    Pair(
        "hosts are back",
        "silent after the fault",
        history(answer(1), faults=(Fault("kill", "worker1", 102.0, 103.0),)),
        history(answer(1), answer(4), faults=(Fault("kill", "worker1", 102.0, 103.0),)),
    ),
    Pair(
        "hosts are back",
        "late",
        history(answer(1), answer(2, LATE, at=104.0 + BACK_S), faults=(Fault("kill", "worker1", 102.0, 103.0),)),
        history(answer(1), answer(2, LATE, at=102.0 + BACK_S), faults=(Fault("kill", "worker1", 102.0, 103.0),)),
    ),
    Pair(
        "hosts are back",
        "late, and then often",
        history(answer(2, LATE, at=104.0 + BACK_S), faults=(Fault("kill", "worker1", 102.0, 103.0),)),
        history(answer(4), answer(2, LATE, at=104.0 + BACK_S), faults=(Fault("kill", "worker1", 102.0, 103.0),)),
    ),
    Pair(
        "hosts are back",
        "refuses in the end",
        history(answer(1), unanswered(2)),
        history(unanswered(1), answer(2)),
    ),
)


def journal(*entries: tuple[str, float, tuple[str, ...]], gates: tuple[float, ...] = (), **ends: str) -> list[str]:
    """Refusals of a journal of actions, shares and versions of a rollout in three steps, after the start."""
    steps = (0.2, 0.5, 1.0)
    first = Entry(1, 1, ROLLOUT, "start", 0.2 / len(entries[0][2]), "1", entries[0][2], "", steps=steps, gates=gates)
    rest = [
        Entry(
            number, 1, ROLLOUT, action.removesuffix(" at gate"), share, "1", versions, "", action.endswith(" at gate")
        )
        for number, (action, share, versions) in enumerate(entries, 2)
    ]
    rest = [entry._replace(champion=ends["back_to"]) if entry.action == "rollback" else entry for entry in rest]
    return list(illegal_steps(History(journal=(first, *rest), first_champion="1")))


TWO, ONE = ("2", "3"), ("2",)
UP_TO_HALF = (("advance", 0.5, ONE),)


@pytest.mark.parametrize(
    ("legal", "illegal"),
    [
        # Two share the steps; the one that is left gets the whole of its step first, and then all the others.
        (
            [("advance", 0.25, TWO), ("advance", 0.5, ONE), ("advance", 1.0, ONE), ("promote", 0.0, ONE)],
            [("advance", 0.25, TWO), ("advance", 1.0, ONE)],
        ),
        (
            [("advance", 0.25, TWO), ("drop", 0.25, ("3",)), ("advance", 0.5, ONE), ("abort", 0.0, ONE)],
            [("advance", 0.25, TWO), ("drop", 0.25, ("3",)), ("advance", 0.25, TWO), ("abort", 0.0, ONE)],
        ),
        ([("advance", 0.25, TWO), ("advance", 0.5, TWO)], [("advance", 0.25, TWO), ("advance", 1.0, TWO)]),
        ([*UP_TO_HALF, ("advance", 1.0, ONE), ("promote", 0.0, ONE)], [*UP_TO_HALF, ("promote", 0.0, ONE)]),
        (
            [*UP_TO_HALF, ("advance", 1.0, ONE), ("abort", 0.0, ONE)],
            [*UP_TO_HALF, ("advance", 1.0, ONE), ("advance", 1.0, ONE)],
        ),
        ([("abort", 0.0, ONE)], [("abort", 0.0, ONE), ("abort", 0.0, ONE)]),
        ([("drop", 0.1, ("3",)), ("abort", 0.0, ONE)], [("drop", 0.1, ("2",)), ("abort", 0.0, ONE)]),
    ],
)
def test_journal_of_a_rollout_differs_from_one_with_a_wrong_step(
    legal: list[tuple[str, float, tuple[str, ...]]], illegal: list[tuple[str, float, tuple[str, ...]]]
) -> None:
    # The first step says who is on trial.
    trial = TWO if any(len(versions) > 1 or versions == ("3",) for _, _, versions in [*legal, *illegal]) else ONE
    begin = ("hold", 0.2, trial)
    assert journal(begin, *legal) == []
    assert len(journal(begin, *illegal)) == 1


def test_rollback_after_the_end_restores_an_earlier_champion_only() -> None:
    promotion = (*UP_TO_HALF, ("advance", 1.0, ONE), ("promote", 0.0, ONE))
    assert journal(*promotion, ("rollback", 0.0, ONE), back_to="1") == []
    assert len(journal(*promotion, ("rollback", 0.0, ONE), back_to="9")) == 1
    assert len(journal(*UP_TO_HALF, ("rollback", 0.0, ONE), back_to="1")) == 1


def test_gate_is_opened_by_the_resume_that_follows_its_own_pause() -> None:
    at_gate = (*UP_TO_HALF, ("pause at gate", 0.5, ONE), ("resume", 0.5, ONE), ("advance", 1.0, ONE))
    assert journal(*at_gate, gates=(0.5,)) == []
    by_hand = (*UP_TO_HALF, ("pause", 0.5, ONE), ("resume", 0.5, ONE), ("advance", 1.0, ONE))
    assert len(journal(*by_hand, gates=(0.5,))) == 1
    # Each gate by itself.
    assert len(journal(*at_gate, ("promote", 0.0, ONE), gates=(0.5, 1.0))) == 1
    opened_before = (("pause at gate", 0.2, ONE), ("resume", 0.2, ONE), *UP_TO_HALF, ("pause", 0.5, ONE))
    assert len(journal(*opened_before, ("resume", 0.5, ONE), ("advance", 1.0, ONE), gates=(0.2, 0.5))) == 1


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.rule}: {pair.name}")
def test_history_that_breaks_one_property_is_told_from_its_neighbor(pair: Pair) -> None:
    assert {violation.rule for violation in check(pair.broken)} == {pair.rule, *pair.also}
    assert check(pair.neighbor) == []


def test_every_property_has_a_history_that_breaks_it() -> None:
    assert {pair.rule for pair in PAIRS} == set(PROPERTIES)


@settings(max_examples=examples(1000))
@given(SEEDS)
def test_correct_history_has_no_violation(seed: int) -> None:
    assert check(simulate(seed)) == []


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption[0].__name__)
@settings(max_examples=examples(200))
@given(SEEDS)
def test_spoiled_history_has_a_violation_of_that_property(corruption: tuple[Corruption, str], seed: int) -> None:
    corrupt, rule = corruption
    spoiled = corrupt(simulate(seed), Random(seed))
    if spoiled is not None:
        found = {violation.rule for violation in check(spoiled)}
        assert rule in found if rule else found


def test_corruptions_apply_to_many_histories() -> None:
    """A corruption that finds no place to spoil would show nothing."""
    seeds = range(30)
    for corrupt, _ in CORRUPTIONS:
        assert sum(corrupt(simulate(seed), Random(seed)) is not None for seed in seeds) >= 5, corrupt


def test_slices_of_two_challengers_are_apart_until_one_is_alone() -> None:
    keys = [f"k{i}" for i in range(50)]
    both = [[in_slice(ROLLOUT, key, version, TWO, 0.5) for version in TWO] for key in keys]
    assert all(sum(owners) == 1 for owners in both)
    # The slice of the second one goes on from the beginning of the circle.
    assert all(in_slice(ROLLOUT, key, "3", TWO, 1.0) for key in keys)


def test_history_is_the_same_after_json() -> None:
    assert History.from_json(simulate(3).to_json()) == simulate(3)
