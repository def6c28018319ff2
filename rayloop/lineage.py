"""Which registered versions use which views, by the manifests in their bundles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cluster.errors import DataError
from cluster.registry import Registry
from cluster.values import ModelVersion
from features.definitions import FeatureView
from features.manifest import MANIFEST_FILE, Manifest


class VersionLineage(NamedTuple):
    """A version with its manifest, or the reason that the manifest cannot be read."""

    version: ModelVersion
    manifest: Manifest | None
    error: str = ""


def load_lineages(registry: Registry, models: Iterable[str]) -> list[VersionLineage]:
    """Return the lineage of all versions of these models, oldest first."""
    return [load_lineage(registry, version) for model in models for version in registry.versions(model)]


def collect_views(lineages: Iterable[VersionLineage], declared: Iterable[FeatureView]) -> list[FeatureView]:
    """Return the declared views and those of registered versions, each definition once."""
    views = {
        view.content_hash: view for lineage in lineages if lineage.manifest for view in lineage.manifest.features.views
    }
    return list((views | {view.content_hash: view for view in declared}).values())


def load_lineage(registry: Registry, version: ModelVersion) -> VersionLineage:
    """Return the lineage of a version."""
    try:
        return VersionLineage(version, Manifest.load(registry.fetch_file(version, MANIFEST_FILE)))
    except DataError as error:
        return VersionLineage(version, None, error.what)
