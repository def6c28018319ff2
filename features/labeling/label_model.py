"""How accurate labeling functions are, from where they agree, and the class that follows from their votes. Pure.

The model is that of Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm"
(Applied Statistics, 1979): the votes of a function have probabilities that depend on the row's class only, and
functions are independent given the class. Rows with a true label keep it, and the others may count less (Nigam et al.,
"Text classification from labeled and unlabeled documents using EM", Machine Learning, 2000). Where a function votes,
and where it abstains, tells nothing of the class, unless it votes for one class only; then abstaining is an outcome,
too. Why: docs/decisions/0081-weak-labels.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

UNKNOWN = -1
"""Label of a row without a true label."""
_ITERATIONS, _TOLERANCE = 500, 1e-7
_RARE = 1e-3
"""Rows that every vote has more than it has, so that none is impossible."""
_INFORMATION_ROWS = 1024


class VoteCounts(NamedTuple):
    """Different rows of votes, and how often each occurs."""

    votes: np.ndarray
    """Class for which each function votes, or ABSTAIN, [patterns, functions]."""
    labels: np.ndarray
    """True class of the rows, or UNKNOWN, [patterns]."""
    counts: np.ndarray
    """Number of rows, [patterns]."""


class LabelModel(NamedTuple):
    """An estimated model of labeling functions."""

    prior: np.ndarray
    """Probability of each class, [classes]."""
    outcomes: np.ndarray
    """Probability of each outcome of a function given the class, [functions, classes, classes + 1]; the last outcome is
    to abstain. Of a function that votes for several classes they are given a vote, and the last is 0."""
    unlabeled: float = 1.0
    """How much a row without a true label counted, beside 1 for a row with one."""

    @property
    def accuracies(self) -> np.ndarray:
        """Probability that a vote is right, [functions]."""
        return self._right() / self._voted()

    @property
    def chance(self) -> np.ndarray:
        """Probability that a vote were right if it did not depend on the class, [functions]."""
        votes = np.einsum("k,jkv->jv", self.prior, self.outcomes)[:, :-1]
        return np.asarray(votes @ self.prior / self._voted())

    def posterior(self, votes: np.ndarray) -> np.ndarray:
        """Probability of each class given the votes, [rows, classes]."""
        return _posterior(self, one_hot(votes, len(self.prior)))[0]

    def standard_errors(self, counts: VoteCounts) -> np.ndarray:
        """Standard errors of the accuracies, if the model holds.

        By the delta method, from the information matrix of the scores of the rows (Louis, "Finding the observed
        information matrix when using the EM algorithm", Journal of the Royal Statistical Society B, 1982).
        """
        covariance = np.linalg.pinv(_information(self, counts), hermitian=True)
        gradients = self._accuracy_gradients()
        return np.sqrt(np.maximum(np.einsum("jp,pq,jq->j", gradients, covariance, gradients), 0.0))

    def _right(self) -> np.ndarray:
        return np.einsum("k,jkk->j", self.prior, self.outcomes[:, :, :-1])

    def _voted(self) -> np.ndarray:
        return np.maximum((1.0 - self.outcomes[:, :, -1]) @ self.prior, np.finfo(float).tiny)

    def _accuracy_gradients(self) -> np.ndarray:
        """Derivatives of the accuracies by the logits of outcomes and prior, [functions, parameters]."""
        functions, classes, _ = self.outcomes.shape
        accuracy, voted, every = self.accuracies, self._voted(), np.arange(classes)
        gradients = np.zeros((functions, self.outcomes.size + classes))
        for j, table in enumerate(self.outcomes):
            by_outcome = np.zeros_like(table)
            by_outcome[every, every] = self.prior / voted[j]
            by_outcome[:, -1] = accuracy[j] * self.prior / voted[j]
            by_prior = (table[every, every] - accuracy[j] * (1.0 - table[:, -1])) / voted[j]
            gradients[j, j * table.size : (j + 1) * table.size] = _by_logits(table, by_outcome).ravel()
            gradients[j, self.outcomes.size :] = _by_logits(self.prior, by_prior)
        return gradients


def one_hot(votes: np.ndarray, classes: int) -> np.ndarray:
    """Outcomes of votes, [rows, functions * (classes + 1)]; the last outcome of each function is to abstain."""
    return np.eye(classes + 1)[np.where(votes < 0, classes, votes)].reshape(len(votes), -1)


def fit_label_model(counts: VoteCounts, classes: int) -> LabelModel:
    """Estimate the model by expectation maximization.

    It starts from the majority of the votes, and from the rows with true labels where each class has some; the more
    probable result counts. Each table of outcomes has one pseudo-row that votes as the function does on all rows, so
    that little evidence says that a function tells nothing. Rows without a true label count fully, as much as all
    those with one together, or not: fully, unless the true labels, each left out of its own prediction, are more
    probable otherwise by more than a standard error (Breiman et al. 1984, section 3.4.3).

    Args:
        counts: The votes.
        classes: Number of classes.
    """
    data = _Data.of(counts, classes)
    true, others = float(data.rows[data.known].sum()), float(data.rows[~data.known].sum())
    if not true or not others:
        return _fit(data)
    fits = [_fit(data.weigh(share)) for share in sorted({1.0, min(1.0, true / others), 0.0}, reverse=True)]
    likelihoods = [_left_out_likelihoods(model, data) for model in fits]
    rows = data.rows[data.known]
    best = max(likelihoods, key=lambda each: float(rows @ each))
    return next(fit for fit, each in zip(fits, likelihoods, strict=True) if _is_within_error(best - each, rows))


def _is_within_error(gains: np.ndarray, rows: np.ndarray) -> bool:
    """Whether the sum of gains is at most its standard error."""
    mean = float(rows @ gains / rows.sum())
    return rows.sum() * mean <= math.sqrt(float(rows @ (gains - mean) ** 2)) + _TOLERANCE


class _Data(NamedTuple):
    """Votes as the estimate takes them."""

    outcomes: np.ndarray
    """One-hot, [patterns, functions * (classes + 1)]."""
    rows: np.ndarray
    """Weight of each pattern."""
    known: np.ndarray
    fixed: np.ndarray
    """One-hot true class where it is known, [patterns, classes]."""
    majority: np.ndarray
    """Shares of the votes, [patterns, classes]."""
    tells: np.ndarray
    """Whether abstentions of a function count: it votes for one class only, [functions, 1, 1]."""
    unlabeled: float = 1.0

    @classmethod
    def of(cls, counts: VoteCounts, classes: int) -> _Data:
        known = counts.labels >= 0
        fixed = np.where(known[:, None], np.eye(classes)[counts.labels], 0.0)
        votes = np.stack([(counts.votes == k).sum(axis=1) for k in range(classes)], axis=1) + 1.0 / classes
        majority = np.where(known[:, None], fixed, votes / votes.sum(axis=1, keepdims=True))
        tells = np.array([len(np.unique(own[own >= 0])) < 2 for own in counts.votes.T])[:, None, None]
        outcomes, rows = one_hot(counts.votes, classes), counts.counts.astype(float)
        return cls(outcomes, rows, known, fixed, majority, tells)

    def weigh(self, unlabeled: float) -> _Data:
        """Let rows without a true label count ``unlabeled``."""
        return self._replace(rows=self.rows * np.where(self.known, 1.0, unlabeled), unlabeled=unlabeled)


class _Tables(NamedTuple):
    """Weights of outcomes by class, with the pseudo-rows, before they are divided by their sums."""

    prior: np.ndarray
    outcomes: np.ndarray

    def normalize(self, unlabeled: float) -> LabelModel:
        outcomes = self.outcomes / self.outcomes.sum(axis=2, keepdims=True)
        return LabelModel(self.prior / self.prior.sum(), outcomes, unlabeled)


def _fit(data: _Data) -> LabelModel:
    starts = [_count(data, data.majority)]
    if (data.fixed * data.rows[:, None]).sum(axis=0).all():
        starts.append(_count(data.weigh(0.0), data.fixed))
    return max((_climb(start.normalize(data.unlabeled), data) for start in starts), key=lambda fit: fit[1])[0]


def _climb(model: LabelModel, data: _Data) -> tuple[LabelModel, float]:
    """Iterate to a maximum of the likelihood; returns the model and its log likelihood by row."""
    before = -np.inf
    for _ in range(_ITERATIONS):
        posterior, evidence, joint = _posterior(model, data.outcomes)
        evidence = np.where(data.known, (joint * data.fixed).sum(axis=1), evidence)
        likelihood = float(data.rows @ evidence / data.rows.sum())
        if likelihood - before < _TOLERANCE:
            break
        before = likelihood
        model = _count(data, np.where(data.known[:, None], data.fixed, posterior)).normalize(data.unlabeled)
    return model, likelihood


def _log_outcomes(outcomes: np.ndarray) -> np.ndarray:
    """Logarithms, [functions * (classes + 1), classes]; 0 for abstentions that do not count."""
    logs = np.log(np.where(outcomes > 0, outcomes, 1.0))
    return np.asarray(logs.transpose(0, 2, 1).reshape(-1, outcomes.shape[1]))


def _posterior(model: LabelModel, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior [rows, classes], log evidence [rows], and log joint probabilities [rows, classes]."""
    joint = np.log(model.prior) + outcomes @ _log_outcomes(model.outcomes)
    largest = joint.max(axis=1, keepdims=True)
    weights = np.exp(joint - largest)
    total = weights.sum(axis=1, keepdims=True)
    return weights / total, (largest + np.log(total))[:, 0], joint


def _count(data: _Data, posterior: np.ndarray) -> _Tables:
    classes = posterior.shape[1]
    weighted = posterior * data.rows[:, None]
    tables = (data.outcomes.T @ weighted).reshape(-1, classes + 1, classes).transpose(0, 2, 1)
    # Every vote keeps a positive probability: what was never seen is rare, not impossible.
    overall = tables.sum(axis=1, keepdims=True) + _RARE
    counted = np.concatenate([np.ones((len(tables), 1, classes)), data.tells], axis=2)
    tables, overall = tables * counted, overall * counted
    return _Tables(weighted.sum(axis=0) + 1.0 / classes, tables + overall / overall.sum(axis=2, keepdims=True))


def _left_out_likelihoods(model: LabelModel, data: _Data) -> np.ndarray:
    """Log probabilities of the true labels, given the votes of their rows, by the tables without the row itself."""
    posterior, _, _ = _posterior(model, data.outcomes)
    tables = _count(data.weigh(model.unlabeled), np.where(data.known[:, None], data.fixed, posterior))
    outcomes, fixed = data.outcomes[data.known], data.fixed[data.known]
    joint = np.log(tables.prior) + outcomes @ _log_outcomes(tables.normalize(1.0).outcomes)
    # Of the row's own class, its votes are taken out of the numerators, and the row out of the denominators.
    shape = len(outcomes), *tables.outcomes.shape[::2]
    own = np.einsum("nk,jkv->njv", fixed, tables.outcomes)
    seen = outcomes.reshape(shape) * np.concatenate([np.ones((shape[1], shape[2] - 1)), data.tells[:, 0]], axis=1)
    without = np.where(own > 0, np.maximum(own - seen, _RARE), 0.0)
    logs = np.log(np.where(without > 0, without, 1.0)) - np.log(without.sum(axis=2, keepdims=True))
    joint_own = np.log(np.maximum((fixed @ tables.prior) - 1.0, _RARE)) + (seen * logs).sum(axis=(1, 2))
    joint = np.where(fixed > 0, joint_own[:, None], joint)
    evidence = joint.max(axis=1) + np.log(np.exp(joint - joint.max(axis=1, keepdims=True)).sum(axis=1))
    return np.asarray(joint_own - evidence)


def _information(model: LabelModel, counts: VoteCounts) -> np.ndarray:
    """Sum over rows of the outer products of their scores, and what the pseudo-rows add, by the logits."""
    classes, size = len(model.prior), model.outcomes.size
    weights = counts.counts * np.where(counts.labels >= 0, 1.0, model.unlabeled)
    counted = (model.outcomes.sum(axis=1) > 0).astype(float)
    total = np.zeros((size + classes, size + classes))
    for start in range(0, len(weights), _INFORMATION_ROWS):
        part = slice(start, start + _INFORMATION_ROWS)
        outcomes = one_hot(counts.votes[part], classes).reshape(-1, *counted.shape) * counted
        posterior = model.posterior(counts.votes[part])
        known = counts.labels[part] >= 0
        posterior[known] = np.eye(classes)[counts.labels[part][known]]
        seen = outcomes.sum(axis=2)[:, :, None, None]
        by_outcome = posterior[:, None, :, None] * (outcomes[:, :, None, :] - seen * model.outcomes)
        scores = np.hstack([by_outcome.reshape(len(posterior), -1), posterior - model.prior])
        total += scores.T @ (scores * weights[part, None])
    for i, table in enumerate([*model.outcomes.reshape(-1, classes + 1), model.prior]):
        at = slice(i * (classes + 1), i * (classes + 1) + len(table))
        total[at, at] += np.diag(table) - np.outer(table, table)
    return total


def _by_logits(probabilities: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Derivative by logits from the derivative by probabilities, along the last axis."""
    return probabilities * (gradient - (gradient * probabilities).sum(axis=-1, keepdims=True))
