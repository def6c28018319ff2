"""What a race tried, what it chose, and why: a stored value, part of the trained model's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from pydantic import Field

from cluster.values import Frozen, Stored
from trainers.config import ModelSpec, Parameter
from trainers.evaluation.bootstrap import Interval

_KEY = "selection"
"""Name of the selection, as JSON in bytes, in the state of a model."""

HEAD = ("model", "rung", "rows", "seconds", "validation loss", "weight", "settings")

State = Mapping[str, np.ndarray]


class Attempt(Frozen):
    """A training within a race."""

    candidate: int
    """Number of the candidate, from 0."""
    family: str
    """Kind of the model."""
    settings: dict[str, Parameter]
    """Those that differ from the kind's defaults."""
    rung: int
    """Rung of the race, from 0."""
    rows: int
    """Training rows."""
    seconds: float
    loss: float | None
    """Mean loss of the validation rows; None if the training failed."""
    error: str = ""
    """Why it failed."""

    @property
    def name(self) -> str:
        """The candidate, for people."""
        return f"{self.family} {self.candidate}"


class Ensemble(Frozen):
    """Models that answer together by the weighted mean of their scores."""

    weights: dict[int, float]
    """Weight of each member, by the number of the candidate; they add up to 1."""
    loss: float
    """Mean loss of the validation rows, which chose it."""
    corrected: Interval
    """The same, corrected for the selection, with a 95% interval."""
    metrics: dict[str, float]
    """Metrics of the validation rows."""


class Selection(Stored, stored_as="selection of a model"):
    """The record of a race."""

    attempts: tuple[Attempt, ...]
    """In the order in which they ended."""
    members: dict[int, dict[str, Parameter]]
    """Parameters of the models whose weights are kept, by candidate."""
    ensembles: tuple[Ensemble, ...] = Field(min_length=1)
    """The best of each size that is worth having, the largest first; the first one is served."""
    loss_name: str
    """"log loss" or "squared error"."""
    minutes: float
    """Budget of the race."""
    seconds: float
    """What it took."""
    validation_rows: int
    dropped: tuple[int, ...] = ()
    """Members that would have helped, but not within the project's serving budget."""

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Read the selection in a model's state."""
        return cls.from_stored(state[_KEY].tobytes())

    def to_state(self, models: Mapping[int, State]) -> dict[str, np.ndarray]:
        """The state of a model: this selection, and the state of each member that an ensemble uses.

        Args:
            models: State of each member, by candidate.
        """
        used = {number for ensemble in self.ensembles for number in ensemble.weights}
        kept = {f"{number}/{name}": value for number in used for name, value in models[number].items()}
        return kept | {_KEY: np.frombuffer(self.model_dump_json().encode(), np.uint8)}

    def member_states(self, state: State) -> dict[int, dict[str, np.ndarray]]:
        """State of each served member, by candidate, from what ``to_state`` returned."""
        return {
            number: {name.removeprefix(f"{number}/"): v for name, v in state.items() if name.startswith(f"{number}/")}
            for number in self.served.weights
        }

    @property
    def served(self) -> Ensemble:
        """The ensemble that is served."""
        return self.ensembles[0]

    def specs(self) -> dict[int, ModelSpec]:
        """The served members as models of their own kind, by candidate."""
        families = {attempt.candidate: attempt.family for attempt in self.attempts}
        return {
            number: ModelSpec.model_validate({"build": families[number], "parameters": self.members[number]})
            for number in self.served.weights
        }

    def without_largest(self) -> Self:
        """The same with the next smaller ensemble served."""
        smaller = self.ensembles[1:]
        lost = self.served.weights.keys() - smaller[0].weights.keys()
        return self.model_copy(update={"ensembles": smaller, "dropped": (*self.dropped, *sorted(lost))})

    def describe(self) -> str:
        """The served members with their weights, on one line."""
        names = {attempt.candidate: attempt.name for attempt in self.attempts}
        ranked = sorted(self.served.weights.items(), key=lambda member: -member[1])
        return " + ".join(f"{weight:.2f} {names[number]}" for number, weight in ranked)

    def reason(self) -> str:
        """Why this was chosen, in a sentence or two."""
        names = {attempt.candidate: attempt.name for attempt in self.attempts}
        families = sorted({attempt.family for attempt in self.attempts})
        text = (
            f"{self.describe()} has the least {self.loss_name} on {self.validation_rows:,} validation rows, "
            f"{self.served.loss:.4f}, of {len(names)} candidates ({', '.join(families)}) in {self.seconds:.0f} "
            f"of {60 * self.minutes:.0f} s"
        )
        if len(self.served.weights) > 1:
            text += f"; the best of them alone has {self.ensembles[-1].loss:.4f}"
        if self.dropped:
            text += f"; without what exceeds the serving budget: {', '.join(names[number] for number in self.dropped)}"
        corrected = self.served.corrected
        return (
            f"{text}. Corrected for the choice, it is {corrected.value:.4f} "
            f"[{corrected.low:.4f}, {corrected.high:.4f}]; figures of the held-out rows need no correction."
        )

    def manifest(self) -> dict[str, Any]:
        """The served members for a version's manifest: kind, weight and settings, by name."""
        by_number = {attempt.candidate: attempt for attempt in self.attempts}
        return {
            by_number[number].name: {"weight": weight, "settings": by_number[number].settings}
            for number, weight in self.served.weights.items()
        }

    def table(self) -> list[tuple[str, ...]]:
        """A row for each attempt, under HEAD, the least loss first."""
        ranked = sorted(self.attempts, key=lambda attempt: (attempt.loss is None, attempt.loss or 0.0))
        shown: set[int] = set()
        rows = list[tuple[str, ...]]()
        for attempt in ranked:
            first = attempt.candidate not in shown
            shown.add(attempt.candidate)
            weight = self.served.weights.get(attempt.candidate) if first else None
            rows.append((
                attempt.name, str(attempt.rung + 1), f"{attempt.rows:,}", f"{attempt.seconds:.1f}",
                attempt.error if attempt.loss is None else f"{attempt.loss:.4f}",
                "" if weight is None else f"{weight:.2f}",
                ", ".join(f"{name} {value}" for name, value in attempt.settings.items()) or "defaults",
            ))  # fmt: skip
        return rows
