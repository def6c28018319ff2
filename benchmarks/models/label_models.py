"""Label models in simulation: functions whose accuracies are known, and that break the models' assumptions in turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from benchmarks.results import Row, row
from features.labeling.label_model import UNKNOWN, VoteCounts, fit_label_model
from features.labeling.labeling_functions import ABSTAIN

ROWS, SHARE, CLASSES = 5_000, 0.3, 2
TRUE = (0, 20, 200)
_ACCURACIES = np.array([0.62, 0.7, 0.75, 0.82, 0.9])
_COVERAGES = np.array([0.5, 0.3, 0.6, 0.4, 0.2])
_OWN, _HITS, _FALSE = (
    np.array([1, 1, 0, 0, 1]),
    np.array([0.3, 0.5, 0.4, 0.6, 0.2]),
    np.array([0.06, 0.15, 0.1, 0.2, 0.02]),
)


class Drawn(NamedTuple):
    """Votes [rows, functions] and classes [rows] of simulated rows."""

    votes: np.ndarray
    classes: np.ndarray


class Quality(NamedTuple):
    """How well a label model does."""

    accuracy_error: float
    """Mean distance of estimated from true accuracies of functions."""
    loss: float
    """Log loss of the weak labels."""


def rows(seeds: int) -> Iterator[Row]:
    """Compare the label model with two others, on functions of four kinds."""
    for name, draw in KINDS.items():
        work = f"label model in simulation: {name}, {ROWS:,} rows"
        drawn = [draw(np.random.default_rng(seed)) for seed in range(seeds)]
        ours = {true: _mean([label_model(each, true) for each in drawn]) for true in TRUE}
        peers = {"majority vote": majority, "triplets (Fu et al. 2020)": triplets}
        theirs = {peer: _mean([measure(each) for each in drawn]) for peer, measure in peers.items()}
        for at, unit in enumerate(("error of accuracies", "log loss of weak labels")):
            for peer, found in theirs.items():
                yield row(work, f"{unit}, no true labels, mean", ours[0][at], peer, found[at], note=f"{seeds} seeds")
            for true in TRUE[1:]:
                yield row(work, f"{unit}, {true} true labels, mean", ours[true][at], note=f"{seeds} seeds")


def _mean(found: list[Quality]) -> Quality:
    return Quality(*map(float, np.mean(found, axis=0)))


def label_model(drawn: Drawn, true: int) -> Quality:
    """rayloop's."""
    labels = np.where(np.arange(ROWS) < true, drawn.classes, UNKNOWN)
    patterns, counts = np.unique(np.column_stack([drawn.votes, labels]), axis=0, return_counts=True)
    model = fit_label_model(VoteCounts(patterns[:, :-1], patterns[:, -1], counts), CLASSES)
    return _quality(drawn, model.accuracies, model.posterior(drawn.votes))


def majority(drawn: Drawn) -> Quality:
    """Shares of the votes are the probabilities; the accuracy is the agreement with them."""
    shares = np.stack([(drawn.votes == k).sum(axis=1) for k in range(CLASSES)], axis=1) + 0.1
    shares = shares / shares.sum(axis=1, keepdims=True)
    accuracies = []
    for own in drawn.votes.T:
        voted = own != ABSTAIN
        accuracies.append(shares[voted, own[voted]].mean())
    return _quality(drawn, np.array(accuracies), shares)


def triplets(drawn: Drawn) -> Quality:
    """Accuracies in closed form from the agreement of triples (Fu et al., "Fast and three-rious", ICML 2020)."""
    signs = np.where(drawn.votes == ABSTAIN, 0, 2 * drawn.votes - 1)
    count = signs.shape[1]
    agreement = np.zeros((count, count))
    for i, j in combinations(range(count), 2):
        product = signs[:, i] * signs[:, j]
        agreement[i, j] = agreement[j, i] = product[product != 0].mean()
    edges = [
        np.median([
            np.sqrt(abs(agreement[i, j] * agreement[i, k] / agreement[j, k]))
            for j, k in combinations([each for each in range(count) if each != i], 2)
        ])
        for i in range(count)
    ]  # fmt: skip
    accuracies = (1.0 + np.clip(edges, 0.0, 0.98)) / 2.0
    total = signs.sum(axis=1)
    share = float((total[total != 0] > 0).mean())
    log_odds = np.log(share / (1.0 - share)) + signs @ np.log(accuracies / (1.0 - accuracies))
    positive = 1.0 / (1.0 + np.exp(-log_odds))
    return _quality(drawn, accuracies, np.column_stack([1.0 - positive, positive]))


def _independent(rng: np.random.Generator) -> Drawn:
    classes = _classes(rng)
    return Drawn(_votes(rng, classes, np.tile(_COVERAGES, (ROWS, 1))), classes)


def _clustered(rng: np.random.Generator) -> Drawn:
    """All functions vote more often on three of ten rows, whatever the class."""
    classes = _classes(rng)
    coverage = np.where(rng.random((ROWS, 1)) < 0.3, 0.8, 0.15)
    return Drawn(_votes(rng, classes, np.tile(coverage, (1, 5))), classes)


def _of_one_class(rng: np.random.Generator) -> Drawn:
    classes = _classes(rng)
    votes = rng.random((ROWS, 5)) < np.where(classes[:, None] == _OWN, _HITS, _FALSE)
    return Drawn(np.where(votes, _OWN, ABSTAIN), classes)


def _copied(rng: np.random.Generator) -> Drawn:
    """Two functions copy a third one on eight of ten rows."""
    votes, classes = _independent(rng)
    copies = rng.random((ROWS, 2)) < 0.8
    return Drawn(np.column_stack([votes[:, :3], np.where(copies, votes[:, 2:3], votes[:, 3:])]), classes)


KINDS = {
    "independent functions": _independent,
    "functions of one class each": _of_one_class,
    "functions that vote on the same rows": _clustered,
    "two of five functions copy a third": _copied,
}


def _classes(rng: np.random.Generator) -> np.ndarray:
    return (rng.random(ROWS) < SHARE).astype(int)


def _votes(rng: np.random.Generator, classes: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    right = rng.random((ROWS, 5)) < _ACCURACIES
    votes = np.where(right, classes[:, None], 1 - classes[:, None])
    return np.where(rng.random((ROWS, 5)) < coverage, votes, ABSTAIN)


def _quality(drawn: Drawn, accuracies: np.ndarray, posterior: np.ndarray) -> Quality:
    voted = drawn.votes != ABSTAIN
    right = ((drawn.votes == drawn.classes[:, None]) & voted).sum(axis=0) / voted.sum(axis=0)
    labeled = voted.any(axis=1)
    of_class = np.clip(posterior[labeled, drawn.classes[labeled]], 1e-9, 1.0)
    return Quality(float(np.abs(accuracies - right).mean()), float(-np.log(of_class).mean()))
