"""The part of kustomize that the folder ``kubernetes`` uses, so that its content can be tested without the program.

Resources, components, images, labels, and patches: strategic merges of maps (a list replaces a list), and JSON patches.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path) -> list[Manifest]:
    """Return the documents of a YAML file; what aliases name is a copy, so that a patch changes one place."""
    return [json.loads(json.dumps(document)) for document in yaml.load_all(path.read_text(), _LOADER) if document]


def render(folder: Path) -> list[Manifest]:
    """Return what ``kubectl kustomize`` prints for a folder, in the order of its files."""
    (kustomization,) = read(folder / "kustomization.yaml")
    manifests: list[Manifest] = []
    for name in [*kustomization.get("resources", []), *kustomization.get("components", [])]:
        path = (folder / name).resolve()
        manifests += render(path) if path.is_dir() else read(path)
    for patch in kustomization.get("patches", []):
        content = yaml.safe_load(patch["patch"]) if "patch" in patch else read(folder / patch["path"])[0]
        target = patch.get("target") or {"kind": content["kind"], "name": content["metadata"]["name"]}
        (manifest,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (target["kind"], target["name"])]
        apply: Callable[[Manifest, Any], None] = _patch if isinstance(content, list) else _merge
        apply(manifest, content)
    for image in kustomization.get("images", []):
        for container in (c for manifest in manifests for c in containers(manifest)):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['name']}:{image['newTag']}"
    for label in kustomization.get("labels", []):
        for manifest in manifests:
            manifest["metadata"].setdefault("labels", {}).update(label["pairs"])
    return manifests


def containers(value: Any) -> list[Manifest]:
    """Return every container below a manifest, wherever its pods are declared."""
    if isinstance(value, list):
        return [container for item in value for container in containers(item)]
    if not isinstance(value, dict):
        return []
    own = [container for key in ("containers", "initContainers") for container in value.get(key, [])]
    return own + [container for item in value.values() for container in containers(item)]


def _merge(target: Manifest, patch: Manifest) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _patch(target: Manifest, operations: list[Manifest]) -> None:
    for operation in operations:
        *parents, last = (part.replace("~1", "/") for part in operation["path"].strip("/").split("/"))
        place: Any = target
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if operation["op"] == "remove":
            del place[last]
        elif isinstance(place, list):
            assert last == "-", "only additions at the end of a list"
            place.append(copy.deepcopy(operation["value"]))
        else:
            assert operation["op"] == "add" or last in place, operation
            place[last] = copy.deepcopy(operation["value"])
