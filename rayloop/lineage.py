"""Which registered versions use which views: read from the manifests that versions carry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cluster.errors import DataError
from cluster.registry import Registry
from cluster.values import ModelVersion
from features.definitions import FeatureView
from features.manifest import MANIFEST_FILE, Manifest


class VersionLineage(NamedTuple):
    """A version with its manifest, or why that cannot be read."""

    version: ModelVersion
    manifest: Manifest | None
    fault: str = ""


def load_lineages(registry: Registry, models: Iterable[str]) -> list[VersionLineage]:
    """Of all versions of these models, oldest first."""
    return [load_lineage(registry, version) for model in models for version in registry.versions(model)]


def collect_views(found: Iterable[VersionLineage], declared: Iterable[FeatureView]) -> list[FeatureView]:
    """The views declared now and those of registered versions, each definition once."""
    views = {view.content_hash: view for one in found if one.manifest for view in one.manifest.features.views}
    return list((views | {view.content_hash: view for view in declared}).values())


def load_lineage(registry: Registry, version: ModelVersion) -> VersionLineage:
    """Of one version."""
    try:
        return VersionLineage(version, Manifest.load(registry.fetch_file(version, MANIFEST_FILE)))
    except DataError as error:
        return VersionLineage(version, None, error.what)
