"""The account of a load: each planned request is answered, failed or missing."""

import math

import pytest

from tests.hosts.load import Account, LabelRecord, LoadPlan, Record

PLAN = LoadPlan("http://server", rate=2.0, seconds=10.0, seed=3)


def records(*outcomes: str) -> list[Record]:
    """One request a second; each takes a tenth, and leaves on time."""
    return [Record(number, float(number), number, number + 0.1, outcome) for number, outcome in enumerate(outcomes)]


def account(*outcomes: str) -> Account:
    return Account.of_lines(PLAN, [record.to_line() for record in records(*outcomes)])


def test_plan_of_one_seed_has_the_same_times_after_json() -> None:
    assert LoadPlan.from_json(PLAN.to_json()) == PLAN
    assert LoadPlan.from_json(PLAN.to_json()).offsets() == PLAN.offsets()
    assert PLAN.offsets() != PLAN._replace(seed=4).offsets()
    assert all(0 < offset < PLAN.seconds for offset in PLAN.offsets())


def test_account_separates_answers_failures_and_missing() -> None:
    load = account("200", "503", "timeout", "200", "reset", "timeout")
    assert load.answered == {"200": 2, "503": 1}
    assert load.failed == {"timeout": 2, "reset": 1}
    assert load.missing == len(PLAN.offsets()) - 6
    assert load.missing + sum(load.answered.values()) + sum(load.failed.values()) == load.planned


def test_account_of_a_load_that_ended_early_counts_what_it_sent() -> None:
    lines = [*(record.to_line() for record in records("200", "503")), "3"]
    load = Account.of_lines(PLAN, lines)
    assert (load.planned, load.missing) == (3, 1)


def test_account_orders_records_by_request() -> None:
    lines = [record.to_line() for record in reversed(records("200", "503", "timeout"))]
    assert [record.outcome for record in Account.of_lines(PLAN, lines).records] == ["200", "503", "timeout"]


@pytest.mark.parametrize("number", [0, -1, len(PLAN.offsets())])
def test_account_with_a_second_or_unplanned_record_is_refused(number: int) -> None:
    lines = [record.to_line() for record in records("200")]
    with pytest.raises(ValueError, match=str(number)):
        Account.of_lines(PLAN, [*lines, Record(number, 0.0, 0.0, 0.1, "200").to_line()])


def test_outage_is_the_longest_time_between_successes() -> None:
    assert account("200", "timeout", "503", "200", "200").outage_s() == pytest.approx(3.0)
    assert math.isinf(account("200").outage_s())
    assert math.isinf(account("timeout", "timeout").outage_s())


def test_latency_counts_from_the_due_time_of_successes() -> None:
    late = [Record(0, 0.0, 0.5, 1.0, "200"), Record(1, 0.0, 0.0, 9.0, "timeout")]
    assert Account(2, late).latency_s(0.99) == 1.0


def test_between_counts_requests_that_were_due_in_the_interval() -> None:
    part = account("200", "timeout", "503", "200").between(1.0, 3.0)
    assert (part.planned, part.missing, part.answered, part.failed) == (2, 0, {"503": 1}, {"timeout": 1})


def test_account_has_answers_and_labels_of_predictions() -> None:
    record = Record(0, 0.0, 0.0, 0.1, "200", "2", "challenger", 0.25)
    label = LabelRecord(0, 1.0, 0.2, 0.3, "timeout")
    load = Account.of_lines(PLAN, [record.to_line(), label.to_line(), "1"])
    assert (load.records, load.labels, load.missing) == ([record], (label,), 0)


def test_predictions_of_a_plan_have_ids_of_their_own_and_drawn_keys() -> None:
    plan = PLAN._replace(keys=5, name="seed1")
    predictions = [plan.prediction(number) for number in range(100)]
    assert len({id for id, _ in predictions}) == 100
    assert {key for _, key in predictions} == {f"k{i}" for i in range(5)}
    assert predictions == [LoadPlan.from_json(plan.to_json()).prediction(number) for number in range(100)]
