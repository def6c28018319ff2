"""Measure: what is known about the two variants, as statistics that merge by addition. Pure."""

from __future__ import annotations

import math

from pydantic import Field

from cluster.values import Frozen
from deployments.analysis.latency_histogram import Latencies
from deployments.analysis.paired_moments import Paired


class Alike(Frozen):
    """Requests that may end alike, in clusters: three sums over ordered pairs of different requests of one cluster.

    All are 0 when no cluster has two. ``pairs`` counts them, ``half_pairs`` those of which the first failed,
    ``failed_pairs`` those of which both did. ``failing`` counts the clusters in which any request failed.
    """

    pairs: int = 0
    half_pairs: int = 0
    failed_pairs: int = 0
    failing: int = 0

    def __add__(self, other: Alike) -> Alike:
        return Alike(**{name: getattr(self, name) + getattr(other, name) for name in Alike.model_fields})

    def excess(self, requests: int, failures: int) -> float:
        """By how much the variance of the number of failures exceeds that of as many independent requests, as a part of it.

        Rao, Scott, "A simple method for the analysis of clustered binary data", Biometrics 48(2), 1992. Where all
        requests ended alike nothing tells how alike those of one cluster are: taken as wholly (``most``).
        """
        rate = failures / requests if requests else 0.0
        if rate in (0.0, 1.0):
            return self.most(requests)
        found = self.failed_pairs - 2.0 * rate * self.half_pairs + rate**2 * self.pairs
        return max(found, 0.0) / (requests * rate * (1.0 - rate))

    def most(self, requests: int) -> float:
        """The same when all requests of a cluster end alike: never less than what holds (Kish, 1965, section 8.2)."""
        return self.pairs / requests if requests else 0.0


class Arm(Frozen):
    """Requests dealt to a variant, and what became of them.

    ``errors`` are requests that this variant failed and the other could answer, ``failures`` all that it failed; the
    champion's are the same, for the other is not asked. ``latency`` holds one observation for each batch that the
    predictor worked on. ``keys`` counts the keys that were dealt, or those of a sample of them that does not depend on
    the split. Requests may end alike because they are of one key, or because they came in one moment, to a variant that
    stood still.
    """

    requests: int = 0
    errors: int = 0
    failures: int = 0
    keys: int = 0
    of_key: Alike = Alike()
    of_moment: Alike = Alike()
    latency: Latencies = Field(default_factory=Latencies)

    @property
    def design_effect(self) -> float:
        """The variance of the number of failures, by that of as many independent requests; at least 1.

        What keys and what moments add is added up (Cameron, Gelbach, Miller, "Robust inference with multiway
        clustering", JBES 29(2), 2011, less the term that both share).
        """
        return 1.0 + self.of_key.excess(self.requests, self.failures) + self._of_stalls

    @property
    def _of_stalls(self) -> float:
        """What moments add. Failures of one moment cannot tell a stall from a bad model, those of a few hardly.

        So the largest that is possible counts at first, and less the more moments had failures.
        """
        if not self.of_moment.failing:
            return 0.0
        least = self.of_moment.most(self.requests) / self.of_moment.failing
        return max(least, self.of_moment.excess(self.requests, self.failures))

    @property
    def kish_effect(self) -> float:
        """The same when all requests of a key end alike, and moments do not matter."""
        return 1.0 + self.of_key.most(self.requests)

    def __add__(self, other: Arm) -> Arm:
        """Exact when no key is in both."""
        return Arm(**{name: getattr(self, name) + getattr(other, name) for name in Arm.model_fields})


class Evidence(Frozen):
    """What a stretch of a rollout has shown."""

    champion: Arm = Field(default_factory=Arm)
    challenger: Arm = Field(default_factory=Arm)
    paired: Paired = Paired()

    @property
    def requests(self) -> int:
        return self.champion.requests + self.challenger.requests

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(
            champion=self.champion + other.champion,
            challenger=self.challenger + other.challenger,
            paired=self.paired + other.paired,
        )


def contested(share: float, champion: float) -> float:
    """A challenger's part of the requests that go to it or to the champion, from the shares of both in all requests.

    Alone with the champion it is its share. Given that a request, or an error, is one of the two's, it is the
    challenger's by this probability, whatever others get.
    """
    return share / (share + champion) if share else 0.0


class RolloutEvidence(Frozen):
    """Evidence on one challenger by its share at the time, in the order of the shares.

    Where several are on trial it is judged on its own requests and the champion's, and the share is that of those two
    (``contested``). ``whole`` is that of all shares together, measured where keys came again at another share; without
    it, their sum. ``grown_mib`` is the most that a replica of the challenger has grown by, ``given_up`` how many rows
    wait no longer for their labels (paired_predictions.py).
    """

    by_share: dict[float, Evidence] = Field(default_factory=dict)
    whole: Evidence | None = None
    grown_mib: float = 0.0
    given_up: int = 0

    @property
    def total(self) -> Evidence:
        return self.whole if self.whole is not None else sum(self.by_share.values(), Evidence())

    def at(self, share: float) -> Evidence:
        """What was seen at this share alone."""
        return next((e for s, e in self.by_share.items() if math.isclose(s, share)), Evidence())
