"""Record the history of a standing cluster while a schedule of faults is played."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from random import Random

from tests.factories.until import until
from tests.hosts.faults import FaultInjector
from tests.hosts.history.check import BACK_S, check
from tests.hosts.history.events import OK, History, Label, Order, Request
from tests.hosts.host import Host
from tests.hosts.launcher import RUN_S, VARIABLES, Cluster, infer_url, request_body
from tests.hosts.load import Account, LoadPlan
from tests.hosts.load_client import Load
from tests.hosts.schedules import Schedule

MODEL = "visits"
RATE = 5.0
"""Requests per second, to each host."""
KEYS = 50
SETTLED_S = 120.0
"""Seconds after the faults within which logs, aliases and counted losses are complete."""
_READ_S = 120.0
_LONGEST_S = 3600.0
"""Of a load, which ends when its schedule has."""
_ENDS = {"promote", "abort", "rollback"}


class Recorder:
    """Records one history after the other, all of the same cluster: its journal has the orders of all of them.

    Args:
        cluster: A cluster with a served model of two versions at least.
        key: A caller's API key.
    """

    def __init__(self, cluster: Cluster, key: str) -> None:
        self._cluster, self._key = cluster, key
        self._orders: list[Order] = []

    def record(self, seed: int, schedule: Schedule, injector: FaultInjector) -> History:
        """Start a rollout, play the schedule under load, order an end at some time, and read the stores.

        Returns:
            The history, once it has no violation any more, or has had the time to settle.
        """
        self._end_rollout(f"before seed {seed}")
        prefix, random = f"seed{seed}-{time.time_ns()}", Random(seed)
        before = self.read(prefix)
        rollout = self._start_rollout(before)
        plans = {worker.name: self._plan(worker, prefix) for worker in self._cluster.workers}
        loads = {host: Load(self._cluster.client, plan) for host, plan in plans.items()}
        for load in loads.values():
            load.wait_for(OK)
        with injector.playing(schedule):
            threading.Event().wait(random.uniform(0.0, schedule.seconds))
            self._order(random.choice(("abort", "promote")), f"ordered in seed {seed}", rollout)
        for load in loads.values():
            # A host that does not answer is a violation, which the checker reports.
            with suppress(AssertionError):
                load.wait_for(OK, int(5 * RATE), BACK_S)
        self._end_rollout(f"after seed {seed}")
        events = History(orders=tuple(self._orders), faults=tuple(injector.past), hosts=tuple(plans))
        for host, load in loads.items():
            requests, labels = client_events(plans[host], load.finish(), host)
            events = events._replace(requests=(*events.requests, *requests), labels=(*events.labels, *labels))
        with suppress(AssertionError):
            until(lambda: not check(join(events, self.read(prefix), before)), "a history without violations", SETTLED_S)
        return join(events, self.read(prefix), before)

    def read(self, prefix: str) -> History:
        """Return what the stores hold; of the log, the rows of requests whose id begins so."""
        command = f". {VARIABLES} && exec python -m tests.hosts.store_reader {MODEL} {prefix}"
        output = self._cluster.client.run("bash", "-c", f"set -a; {command}", timeout_s=_READ_S).stdout
        return History.from_json(output.splitlines()[-1])

    def _plan(self, worker: Host, prefix: str) -> LoadPlan:
        url = infer_url(worker)
        return LoadPlan(
            url,
            RATE,
            seconds=_LONGEST_S,
            body=request_body(),
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
            seed=int.from_bytes(worker.name.encode()),
            keys=KEYS,
            name=f"{prefix}-{worker.name}",
            feedback_url=f"{url.removesuffix('/infer')}/feedback",
        )

    def _start_rollout(self, before: History) -> str:
        """Put the other one of two versions on trial; return the rollout."""
        challenger = "2" if before.aliases["champion"] == "1" else "1"
        self._cluster.rayloop("deploy", "project/visits.py", "--version", challenger, timeout_s=RUN_S)
        rollout = self._active_rollout()
        assert rollout, "no rollout has started"
        return rollout

    def _active_rollout(self) -> str:
        """The rollout that is in progress, by the journal; empty if there is none."""
        journal = self.read("none").journal
        newest = [entry for entry in journal if entry.rollout == journal[-1].rollout]
        return "" if _ENDS & {entry.action for entry in newest} or not newest else newest[-1].rollout

    def _end_rollout(self, reason: str) -> None:
        """Abort the rollout that is in progress, if there is one."""
        until(
            lambda: not (rollout := self._active_rollout()) or self._order("abort", reason, rollout),
            "the rollout ends",
            BACK_S,
        )

    def _order(self, action: str, reason: str, rollout: str) -> bool:
        """Give an order, under a reason of its own; return whether it was acknowledged."""
        sent, reason = time.monotonic(), f"{reason}, order {len(self._orders)}"
        words = (action, MODEL, "--reason", reason, "--rollout", rollout)
        try:
            acknowledged = self._cluster.rayloop(*words, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            acknowledged = False
        self._orders.append(Order(action, reason, rollout, sent, time.monotonic(), acknowledged))
        return acknowledged


def join(events: History, stores: History, before: History) -> History:
    """Join what clients saw with what the stores hold; losses of the time before are not this history's."""
    return events._replace(
        journal=stores.journal,
        commits=stores.commits,
        aliases=stores.aliases,
        rows=stores.rows,
        label_rows=stores.label_rows,
        lost_predictions=stores.lost_predictions - before.lost_predictions,
        lost_labels=stores.lost_labels - before.lost_labels,
        first_champion=stores.first_champion,
    )


def client_events(plan: LoadPlan, account: Account, host: str) -> tuple[list[Request], list[Label]]:
    """Return what a load of predictions, sent to one host, saw."""
    ids = {record.number: plan.prediction(record.number) for record in account.records}
    requests = [
        Request(*ids[r.number], host, r.sent, r.ended, r.outcome, r.version, r.variant, r.score)
        for r in account.records
    ]
    labels = [
        Label(ids[label.number][0], label.value, host, label.sent, label.ended, label.outcome)
        for label in account.labels
    ]
    return requests, labels
