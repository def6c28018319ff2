"""Release versions: the first is served directly, later ones are rolled out against the champion."""

from __future__ import annotations

from cluster.errors import RolloutError
from cluster.names import CHAMPION
from cluster.values import ModelVersion
from rayloop.context import ProjectContext
from rayloop.stages.deploy import deploy, is_serving, start_rollout


def release(context: ProjectContext, *versions: ModelVersion) -> str:
    """Serve the first version directly; roll out later ones, one or several, against the champion.

    Returns:
        What was done, as a line.
    """
    champion, version = context.registry.version_by_alias(context.project.name, CHAMPION), versions[0]
    if champion is None and len(versions) > 1:
        raise RolloutError("rollout.no_champion", model=context.project.name)
    with context.progress.stage("serve"):
        if champion is None:
            deploy(context, version)
            done = f"{version} is served as the first champion"
        elif (champion.version,) == tuple(v.version for v in versions):
            deploy(context, version)
            done = f"{version} is already the champion"
        else:
            if not is_serving(context, champion):
                deploy(context, champion)
            start_rollout(context, versions)
            done = f"rollout of {' and '.join(map(str, versions))} against v{champion.version} started"
        context.progress(done)
    return done
