"""What may follow what in a journal: the rules of a rollout, without the product's state machine. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.hosts.history.events import Entry, History


def illegal_steps(history: History) -> Iterator[str]:
    """Yield each entry that its rollout did not permit at that moment: above all, each wrong promotion."""
    orders = {(order.rollout, order.action, order.reason) for order in history.orders}
    rollout = Rollout(history.first_champion)
    for entry in history.journal:
        by_order = (entry.rollout, entry.action, entry.reason) in orders
        if refusal := rollout.refusal(entry, by_order):
            yield f"entry {entry.sequence}: {entry.action} of {entry.rollout}: {refusal}"
        rollout.follow(entry)


def newest_rollout(history: History) -> Rollout:
    """Return the newest rollout as the whole journal leaves it."""
    rollout = Rollout(history.first_champion)
    for entry in history.journal:
        rollout.follow(entry)
    return rollout


class Rollout:
    """The newest rollout of a model, as far as its journal has been read; at first there is none."""

    def __init__(self, champion: str) -> None:
        self.champion = champion
        self.champions = {champion}
        """Every version that was champion so far."""
        self.challengers: tuple[str, ...] = ()
        """Versions on trial; empty once the rollout has ended."""
        self._id, self._held, self._at_gate = "", False, False
        self._steps: tuple[float, ...] = ()
        self._gates: tuple[float, ...] = ()
        self._step, self._parts, self._opened = 0, 1, -1

    @property
    def _share(self) -> float:
        return self._steps[self._step]

    def refusal(self, entry: Entry, by_order: bool) -> str:
        """Return why this entry may not come next; empty if it may.

        Args:
            entry: The entry.
            by_order: Whether a person ordered it.
        """
        if entry.action == "start":
            return self._refuse_start(entry)
        if entry.rollout != self._id:
            return f"{self._id or 'no rollout'} is the newest"
        if entry.action == "hold":
            return ""
        if entry.action == "rollback":
            known = entry.champion in self.champions
            return "the rollout has not ended" if self.challengers else "" if known else "it never was champion"
        if not self.challengers:
            return "the rollout has ended"
        if not {*entry.challengers} <= {*self.challengers}:
            return f"{entry.challengers} are on trial, of {self.challengers}"
        if entry.champion != self.champion:
            return f"the champion is {self.champion}, not {entry.champion}"
        if entry.action == "promote":
            return self._refuse_promotion(entry, by_order)
        return self._refuse_advance(entry) if entry.action == "advance" else ""

    def _refuse_start(self, entry: Entry) -> str:
        if self.challengers:
            return f"{self._id} has not ended"
        if entry.champion != self.champion:
            return f"the champion is {self.champion}, not {entry.champion}"
        if self.champion in entry.challengers:
            return "the champion is its own challenger"
        return _unequal(entry.share, entry.steps[0] / len(entry.challengers))

    def _refuse_promotion(self, entry: Entry, by_order: bool) -> str:
        if len(entry.challengers) != 1:
            return f"it promotes {entry.challengers}"
        if by_order:
            return ""
        return self._held_back() or ("" if self._step + 1 == len(self._steps) else f"it is at {self._share:.0%} only")

    def _refuse_advance(self, entry: Entry) -> str:
        step, parts = self._advanced(entry)
        if step == len(self._steps):
            return "there is no further step"
        return self._held_back() or _unequal(entry.share, self._steps[step] / parts)

    def _held_back(self) -> str:
        if self._held:
            return "the rollout is held"
        closed = self._opened != self._step and any(math.isclose(self._share, gate) for gate in self._gates)
        return f"the gate at {self._share:.0%} is closed" if closed else ""

    def _advanced(self, entry: Entry) -> tuple[int, int]:
        """Step and parts after an advance: a challenger that is left alone first gets the whole of its step."""
        alone = self._parts > 1 and len(entry.challengers) == 1
        return (self._step, 1) if alone else (self._step + 1, self._parts)

    def follow(self, entry: Entry) -> None:
        """Go on to the next entry, also to one that may not come next."""
        match entry.action:
            case "start":
                self._id, self._steps, self._gates = entry.rollout, entry.steps, entry.gates
                self.champion, self.challengers = entry.champion, entry.challengers
                self._step, self._parts, self._opened, self._held = 0, len(entry.challengers), -1, False
            case "advance":
                step, self._parts = self._advanced(entry)
                self._step, self._opened = min(step, len(self._steps) - 1), -1
                self.challengers = entry.challengers
            case "pause" | "invalid":
                self._held, self._at_gate = True, entry.at_gate
            case "resume":
                self._held, self._opened = False, self._step if self._at_gate else self._opened
                self._at_gate = False
            case "drop":
                self.challengers = tuple(each for each in self.challengers if each not in entry.challengers)
            case "promote":
                self.champion, self.challengers = entry.challengers[0], ()
            case "abort":
                self.challengers = ()
            case "rollback":
                self.champion, self.challengers = entry.champion, ()
        self.champions.add(self.champion)


def _unequal(share: float, expected: float) -> str:
    return "" if math.isclose(share, expected) else f"the share is {share}, not {expected}"
