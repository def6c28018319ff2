"""What a replica serves at a moment: versions, challengers and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cluster.errors import RequestError
from cluster.names import CHALLENGER, CHAMPION, Variant
from deployments.http_messages import VARIANT_HEADER
from deployments.inference.challenger_client import ChallengerClient
from deployments.inference.predictor import Scorer
from deployments.protocol.open_inference import InferRequestParser
from deployments.serve_schema import ServerConfig


class ServingState(NamedTuple):
    """What is served now; replaced as a whole, so that a request sees one state throughout."""

    config: ServerConfig
    champion: Scorer
    parser: InferRequestParser
    challengers: Mapping[str, ChallengerClient]
    """By version."""

    @property
    def versions(self) -> dict[str, Variant]:
        """The versions that answer now, with their variants."""
        versions: dict[str, Variant] = {self.champion.version: "champion"}
        versions.update(dict.fromkeys(self.challengers, "challenger"))
        return versions

    def pinned_version(self, version: str | None, variant: str | None) -> str | None:
        """Resolve the version that a tester pins.

        Args:
            version: As named by the path.
            variant: As named by VARIANT_HEADER. Without a challenger, the champion stands in for it.

        Returns:
            The version; None when neither is given, and the split decides.

        Raises:
            RequestError: 404 for a version that is not served, 400 for a variant that is unknown, ambiguous, or not the
                version's.
        """
        if version is None and variant is None:
            return None
        if variant not in (None, CHAMPION, CHALLENGER):
            raise RequestError("request.unknown_variant", field=VARIANT_HEADER)
        if version is None:
            return self._version_of(variant)
        if version not in self.versions:
            raise RequestError("request.version_not_served", version=version[:20], served=list(self.versions))
        if variant not in (None, self.versions[version]):
            raise RequestError(
                "request.variant_mismatch", field=VARIANT_HEADER, version=version, variant=self.versions[version]
            )
        return version

    def _version_of(self, variant: str | None) -> str:
        if variant == CHAMPION or not self.challengers:
            return self.champion.version
        if len(self.challengers) > 1:
            raise RequestError("request.ambiguous_variant", field=VARIANT_HEADER, versions=list(self.challengers))
        return next(iter(self.challengers))
