"""Refuse a cluster that an earlier release started: its actors refer to modules that do not exist here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from cluster.errors import ClusterUnavailable
from cluster.node.session import require_current_layout
from cluster.settings import Settings
from rayloop.module_shadowing import PACKAGES


def require_compatible_cluster(settings: Settings) -> None:
    """Check that this release can work with what runs on the cluster.

    A cluster of this machine is recognized by its session file, another one by the applications that Serve runs there.

    Raises:
        ClusterUnavailable: An earlier release started the cluster, or Serve does not answer.
    """
    if not settings.address:
        require_current_layout(settings)
        return
    from deployments.rollout.serve_details import fetch_serve_details

    if outdated := outdated_applications(fetch_serve_details(settings)):
        name, module = next(iter(outdated.items()))
        raise ClusterUnavailable("cluster.earlier_release", address=settings.dashboard, application=name, module=module)


def outdated_applications(details: Mapping[str, Any]) -> dict[str, str]:
    """Find rayloop's applications whose module does not exist in this release.

    Args:
        details: The answer of Serve's REST API, ``GET /api/serve/applications/``.

    Returns:
        Application name to module path.
    """
    declared = {name: app.get("deployed_app_config") or {} for name, app in details.get("applications", {}).items()}
    modules = {name: str(config.get("import_path", "")).partition(":")[0] for name, config in declared.items()}
    return {n: module for n, module in modules.items() if module.split(".")[0] in PACKAGES and not _exists(module)}


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
