"""Evidence on a challenger and the champion, as statistics that merge by addition. Pure."""

from __future__ import annotations

import math

from pydantic import Field

from cluster.values import Additive, Frozen
from deployments.analysis.clipped_differences import ClippedDifferences
from deployments.analysis.group_decisions import GroupDecisions
from deployments.analysis.latency_histogram import LatencyHistogram
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.predicted_moments import PredictedMoments
from deployments.analysis.score_agreement import ScoreAgreement
from deployments.analysis.validity.validity_evidence import ValidityEvidence


class ClusterStats(Additive):
    """Sums over clusters of dependent requests; a pair is an ordered pair of different requests of one cluster."""

    pairs: int = 0
    """Pairs; 0 when no cluster has two requests."""
    half_pairs: int = 0
    """Pairs whose first request failed."""
    failed_pairs: int = 0
    """Pairs of which both requests failed."""
    failing_clusters: int = 0
    """Clusters with at least one failed request."""

    def excess_variance(self, requests: int, failures: int) -> float:
        """Variance of the number of failures beyond that of independent requests, as a fraction of the latter.

        Rao, Scott, "A simple method for the analysis of clustered binary data", Biometrics 48(2), 1992. Where all
        requests ended alike, the correlation within a cluster cannot be estimated; it counts as 1 then.
        """
        rate = failures / requests if requests else 0.0
        if rate in (0.0, 1.0):
            return self.max_excess_variance(requests)
        covariance = self.failed_pairs - 2.0 * rate * self.half_pairs + rate**2 * self.pairs
        return max(covariance, 0.0) / (requests * rate * (1.0 - rate))

    def max_excess_variance(self, requests: int) -> float:
        """Upper bound of excess_variance: all requests of a cluster end alike (Kish, 1965, section 8.2)."""
        return self.pairs / requests if requests else 0.0

    def less(self, part: ClusterStats) -> ClusterStats:
        """What remains without a part of the requests; a difference of estimates counts as at least 0."""
        return ClusterStats(
            **{name: max(getattr(self, name) - getattr(part, name), 0) for name in type(self).model_fields}
        )


class VariantStats(Additive):
    """Requests that the split assigned to a variant, and how they ended. A sum is exact if no key is in both parts."""

    requests: int = 0
    errors: int = 0
    """Requests that this variant failed and the other could answer; for the champion, all that it failed."""
    failures: int = 0
    """All requests that this variant failed."""
    unanswered: int = 0
    """Copies of requests that it was sent and did not answer in time: for whatever reason, so they are no errors."""
    keys: int = 0
    """Routing keys assigned, or those of a sample of keys that does not depend on the split."""
    key_clusters: ClusterStats = ClusterStats()
    """Requests of one key, which may end alike."""
    time_clusters: ClusterStats = ClusterStats()
    """Requests of one time bucket, which may end alike because the variant stalled."""
    latency: LatencyHistogram = Field(default_factory=LatencyHistogram)
    """One observation for each batch that the predictor scored."""

    @property
    def answered(self) -> int:
        """Requests less copies without an answer."""
        return self.requests - self.unanswered

    @property
    def design_effect(self) -> float:
        """Variance of the number of failures divided by that of as many independent requests; at least 1.

        The excess from keys and that from time buckets are added (Cameron, Gelbach, Miller, "Robust inference with
        multiway clustering", JBES 29(2), 2011, less the term that both share).
        """
        return 1.0 + self.key_clusters.excess_variance(self.requests, self.failures) + self._stall_excess

    @property
    def _stall_excess(self) -> float:
        """Excess variance from time buckets.

        Failures in a single bucket cannot tell a stall from a bad model, and those in a few hardly can. So the largest
        possible excess counts at first, and the more buckets had failures, the less of it counts.
        """
        if not self.time_clusters.failing_clusters:
            return 0.0
        least = self.time_clusters.max_excess_variance(self.requests) / self.time_clusters.failing_clusters
        return max(least, self.time_clusters.excess_variance(self.requests, self.failures))

    @property
    def kish_effect(self) -> float:
        """Upper bound of the design effect of repeated keys alone: all requests of a key end alike."""
        return 1.0 + self.key_clusters.max_excess_variance(self.requests)


class ComparisonEvidence(Additive):
    """Statistics of champion and challenger over a part of a rollout."""

    champion: VariantStats = Field(default_factory=VariantStats)
    challenger: VariantStats = Field(default_factory=VariantStats)
    copies: VariantStats = Field(default_factory=VariantStats)
    """Requests that the split assigned to the champion and of which the challenger was sent a copy, without keys and
    latency. The clusters are what copies add to those of ``challenger``, since a key may be in both."""
    paired: PairedMoments = PairedMoments()
    predicted: PredictedMoments = PredictedMoments()
    """Of the same rows as ``paired``."""
    early: ClippedDifferences = ClippedDifferences()
    """Of the same rows as ``paired``."""
    agreement: ScoreAgreement = ScoreAgreement()
    """Of the first rows that both variants scored, labeled or not."""
    groups: GroupDecisions = GroupDecisions()
    """Of the rows of ``agreement`` for rates that need no labels, else of those of ``paired``."""

    @property
    def scored(self) -> VariantStats:
        """Requests that the challenger was to score: its own, and copies of the champion's."""
        return self.challenger + self.copies


def pairwise_share(share: float, champion: float) -> float:
    """A challenger's share of the requests that go to it or to the champion.

    Given that a request, or an error, belongs to one of the two, it is the challenger's with this probability,
    regardless of what other challengers get.

    Args:
        share: The challenger's share of all requests.
        champion: The champion's share of all requests.
    """
    return share / (share + champion) if share else 0.0


class RolloutEvidence(Frozen):
    """Evidence on one challenger, from its own requests and the champion's."""

    by_share: dict[float, ComparisonEvidence] = Field(default_factory=dict)
    """By the challenger's ``pairwise_share`` at the time, in rising order."""
    overall: ComparisonEvidence | None = None
    """Over all shares, with each key that returned at another share counted once; None: the sum of ``by_share``."""
    memory_growth_mib: float = 0.0
    """The most that a replica of the challenger has grown by since it loaded, MiB."""
    expired_rows: int = 0
    """Rows whose labels did not arrive in time (paired_predictions.py)."""
    validity: ValidityEvidence | None = None
    """What the checks of the evidence need; None where no rows were collected."""
    late_validity: ValidityEvidence = Field(default_factory=ValidityEvidence)
    """The same of rows that both versions scored after a promotion."""

    @property
    def total(self) -> ComparisonEvidence:
        return self.overall if self.overall is not None else sum(self.by_share.values(), ComparisonEvidence())

    def at_share(self, share: float) -> ComparisonEvidence:
        """Evidence from this share alone; empty when there is none."""
        return next((e for s, e in self.by_share.items() if math.isclose(s, share)), ComparisonEvidence())
