"""``kubernetes/``: valid, complete, and what the code needs is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private import ray_constants
from ray.dashboard.modules.reporter import healthz_agent
from ray.serve._private.haproxy import HAProxyConfig

import rayloop
from cluster.node.environment import local_environment
from cluster.settings import Settings, load_settings
from deployments.serve_schema import REQUEST_TIMEOUT_S
from monitoring.export.alert_rules import render_rules
from tests.factories import kustomize

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "kubernetes"
ALERTS = FOLDER / "components" / "monitoring" / "alert-rules.yaml"
CRDS = "RAYLOOP_KUBERAY_CRDS"
"""Variable with the folder of KubeRay's CRDs, ``ray-operator/config/crd/bases`` of its repository, 1.7 or newer."""
OVERLAYS = ("one-node", "production", "upgrade")
VERSIONS = ("1.32", "1.35")
"""Versions of Kubernetes whose schemas the manifests must pass."""
LOCAL_ONLY = {
    # Each pod has its own /tmp and network: the defaults do not collide.
    "RAY_TMPDIR",
    *(f"RAY_SERVE_HAPROXY_{name}" for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "METRICS_SOCKET_PATH")),
    *(f"RAY_SERVE_HAPROXY_{name}" for name in ("SERVER_STATE_BASE", "SERVER_STATE_FILE", "STATS_PORT", "METRICS_PORT")),
    # KubeRay sets it: authOptions.
    "RAY_AUTH_MODE",
}
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""Seconds for which ``ray start --block`` drains its node before it ends."""
SET_BY_KUBERAY = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
KUBERAY_LABELS = {"ray.io/is-ray-node": "yes"}
SELECTED_BY_KUBERAY = {"app.kubernetes.io/name", "app.kubernetes.io/created-by", "ray.io/identifier"}
"""Labels by which KubeRay's Services find their pods; a pod template that replaces one is not found."""

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def manifests(overlay: str) -> list[kustomize.Manifest]:
    return kustomize.render(FOLDER / "overlays" / overlay)


def jobs() -> list[kustomize.Manifest]:
    return [manifest for path in sorted((FOLDER / "jobs").glob("*.yaml")) for manifest in kustomize.read(path)]


def one(overlay: str, kind: str, name: str = "rayloop") -> kustomize.Manifest:
    (found,) = [m for m in manifests(overlay) if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def cluster(overlay: str) -> kustomize.Manifest:
    (found,) = [m for m in manifests(overlay) if m["kind"] == "RayCluster"]
    return found


def ray_templates(spec: kustomize.Manifest) -> Iterator[tuple[str, kustomize.Manifest]]:
    """Yield the group and pod template of the head and of each group of workers."""
    yield "head", spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def templates(manifest: kustomize.Manifest) -> Iterator[kustomize.Manifest]:
    """Yield the pod templates of a manifest of any kind, Ray's with the labels that KubeRay adds."""
    spec = manifest.get("spec", {})
    if manifest["kind"] in ("RayCluster", "RayJob"):
        name = manifest["metadata"].get("name", "job")
        for group, template in ray_templates(spec.get("rayClusterSpec", spec)):
            node = "head" if group == "head" else "worker"
            labels = KUBERAY_LABELS | {"ray.io/cluster": name, "ray.io/node-type": node, "ray.io/group": group}
            yield template | {"metadata": {"labels": template["metadata"]["labels"] | labels}}
        if "submitterPodTemplate" in spec:
            yield spec["submitterPodTemplate"]
    elif manifest["kind"] == "CronJob":
        yield spec["jobTemplate"]["spec"]["template"]
    elif "template" in spec:
        yield spec["template"]


def pods(overlay: str) -> list[kustomize.Manifest]:
    return [template for manifest in manifests(overlay) for template in templates(manifest)]


def selected(selector: kustomize.Manifest, overlay: str) -> list[kustomize.Manifest]:
    return [pod for pod in pods(overlay) if selector.items() <= pod["metadata"]["labels"].items()]


def own_variables(container: kustomize.Manifest) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def secret_keys(overlay: str) -> dict[str, set[str]]:
    """Return what the overlay's README documents: the keys of each secret."""
    keys: dict[str, set[str]] = {}
    readme = (FOLDER / "overlays" / overlay.replace("upgrade", "production") / "README.md").read_text()
    for secret, key in re.findall(r"^\| `([\w-]+)` \| `(\w+)` \|", readme, re.MULTILINE):
        keys.setdefault(secret, set()).add(key)
    return keys


def secret_references(value: Any) -> Iterator[tuple[str, str | None]]:
    """Yield the secret and key of each reference below a manifest; no key where all of a secret is used."""
    if isinstance(value, list):
        for item in value:
            yield from secret_references(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "secretKeyRef":
                yield item["name"], item["key"]
            elif key in ("secretRef", "secret"):
                yield item.get("name") or item["secretName"], None
            elif key == "secretName":
                yield item, "auth_token"
            else:
                yield from secret_references(item)


def without_private_fields(schema: Any) -> Any:
    """Make a CRD's schema refuse unknown fields, as the API server does with strict validation."""
    if isinstance(schema, list):
        return [without_private_fields(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: without_private_fields(value) for key, value in schema.items()}
    if "properties" in strict and strict.get("type") == "object" and "additionalProperties" not in strict:
        strict["additionalProperties"] = bool(strict.get("x-kubernetes-preserve-unknown-fields"))
    if strict.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    return strict


def test_each_file_is_listed_once_and_exists() -> None:
    listed: list[Path] = []
    for path in FOLDER.rglob("kustomization.yaml"):
        (content,) = kustomize.read(path)
        files = [*content.get("resources", []), *(p["path"] for p in content.get("patches", []) if "path" in p)]
        listed += [(path.parent / name).resolve() for name in files if name.endswith(".yaml")]
        folders = [
            name for name in (*content.get("resources", []), *content.get("components", [])) if "." not in name[-5:]
        ]
        assert all((path.parent / name / "kustomization.yaml").exists() for name in folders)
    files = {
        path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml" and path.parent.name != "jobs"
    }
    assert sorted(listed) == sorted(files)


@every_overlay
def test_kustomize_renders_what_the_tests_check(overlay: str) -> None:
    command = (
        [shutil.which("kustomize"), "build"] if shutil.which("kustomize") else [shutil.which("kubectl"), "kustomize"]
    )
    if command[0] is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    output = subprocess.run(
        [*command, FOLDER / "overlays" / overlay], capture_output=True, text=True, check=True
    ).stdout
    rendered = {(m["kind"], m["metadata"]["name"]): m for m in yaml.safe_load_all(output)}
    assert rendered == {(m["kind"], m["metadata"]["name"]): m for m in manifests(overlay)}


@every_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_core_kinds_and_pods_of_ray_have_the_fields_of_kubernetes(overlay: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in (*manifests(overlay), *jobs()):
        group = manifest["apiVersion"].partition("/")[0]
        if group not in ("ray.io", "monitoring.coreos.com"):
            validate.validate(manifest, version, strict=True)
        for template in templates(manifest):
            validate.validate({"apiVersion": "v1", "kind": "Pod", **template}, version, strict=True)


def test_kinds_of_kuberay_have_the_fields_of_its_definitions() -> None:
    if CRDS not in os.environ:
        pytest.skip(f"{CRDS} does not name the folder of KubeRay's CRDs")
    schemas = {}
    for path in Path(os.environ[CRDS]).glob("ray.io_*.yaml"):
        (definition,) = kustomize.read(path)
        (version,) = [
            v for v in definition["spec"]["versions"] if v["name"] == "v1" or len(definition["spec"]["versions"]) == 1
        ]
        schemas[definition["spec"]["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    checked = [m for m in (*(cluster(o) for o in OVERLAYS), *jobs()) if m["apiVersion"].startswith("ray.io/")]
    assert {m["kind"] for m in checked} == {"RayCluster", "RayJob"}
    for manifest in checked:
        schema = without_private_fields(schemas[manifest["kind"]])
        jsonschema.Draft202012Validator(schema).validate(manifest)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("RAY_", "RAYLOOP_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.usefixtures("clean_environment")
@every_overlay
def test_pods_have_the_variables_of_a_local_cluster(overlay: str) -> None:
    local = {name: value for name, value in local_environment(Settings()).items() if name.startswith("RAY_")}
    data = one(overlay, "ConfigMap", "rayloop-environment")["data"]
    ray = {name: value for name, value in data.items() if name.startswith("RAY_")}
    assert ray == {name: value for name, value in local.items() if name not in LOCAL_ONLY}
    assert local.keys() >= LOCAL_ONLY
    for _, template in ray_templates(cluster(overlay)["spec"]):
        (container,) = template["spec"]["containers"]
        sources = [source.get("configMapRef") or source["secretRef"] for source in container["envFrom"]]
        assert [source["name"] for source in sources] == ["rayloop-environment", "rayloop-stores"]
        assert own_variables(container)["RAYLOOP_ADDRESS"] == "http://$(CLUSTER)-head-svc:8265"
    assert cluster(overlay)["spec"]["authOptions"]["mode"] == "token"


@every_overlay
def test_settings_exist_and_no_store_is_on_a_pods_disk(overlay: str, clean_environment: pytest.MonkeyPatch) -> None:
    data = one(overlay, "ConfigMap", "rayloop-environment")["data"]
    names = {*data, *secret_keys(overlay)["rayloop-stores"]}
    names |= {
        name for m in (*manifests(overlay), *jobs()) for c in kustomize.containers(m) for name in own_variables(c)
    }
    own = {name for name in names if name.startswith("RAYLOOP_")}
    assert own <= {f"RAYLOOP_{field.upper()}" for field in Settings.model_fields}
    for name in own:
        clean_environment.setenv(name, data.get(name, f"value://{name.lower()}"))
    settings = load_settings()
    stores = (settings.mlflow_uri, settings.iceberg["uri"], settings.access_uri, settings.online_store_uri)
    files = (settings.mlflow_artifacts, settings.iceberg["warehouse"], settings.checkpoints)
    volume = f"{settings.home}/files" if overlay == "one-node" else None
    local = [place for place in (*stores, *files) if str(settings.home) in place]
    assert [place for place in local if volume is None or volume not in place] == []
    assert settings.serve_host == "0.0.0.0"
    assert settings.access == (overlay != "one-node")
    assert bool(settings.rate_store and settings.access_rate) == settings.access


@every_overlay
def test_secrets_are_documented_and_have_no_value(overlay: str) -> None:
    documented = secret_keys(overlay)
    references = {pair for m in (*manifests(overlay), *jobs()) for pair in secret_references(m)}
    assert {secret for secret, _ in references} == set(documented)
    assert {(secret, key) for secret, key in references if key and key not in documented[secret]} == set()
    assert [m for m in manifests(overlay) if m["kind"] == "Secret"] == []


@pytest.mark.usefixtures("clean_environment")
@every_overlay
def test_ports_are_those_on_which_the_code_listens(overlay: str) -> None:
    settings = Settings()
    listened = {
        "gcs-server": settings.gcs_port,
        "dashboard": settings.dashboard_port,
        "serve": settings.serve_port,
        "serve-grpc": settings.grpc_port,
    }
    metrics = {"metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}
    seen = set()
    for _, template in ray_templates(cluster(overlay)["spec"]):
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert ports.items() <= (listened | metrics).items()
        seen |= ports.keys()
    assert seen == listened.keys() | metrics.keys()
    data = one(overlay, "ConfigMap", "rayloop-environment")["data"]
    assert not [name for name in data if name.startswith("RAYLOOP_") and "PORT" in name]


@every_overlay
def test_services_and_policies_select_pods_that_open_their_ports(overlay: str) -> None:
    first = overlay.replace("upgrade", "production")  # The door stays with the first cluster until it is switched.
    for service in (m for m in manifests(first) if m["kind"] == "Service"):
        found = selected(service["spec"]["selector"], first)
        assert found, service["metadata"]["name"]
        for pod, port in product(found, service["spec"]["ports"]):
            ports = {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"]}
            assert ports[port["targetPort"]] == port["port"]
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor"):
        for manifest in (m for m in manifests(overlay) if m["kind"] == kind):
            selector = manifest["spec"].get("podSelector") or manifest["spec"]["selector"]
            assert selected(selector["matchLabels"], overlay), manifest["metadata"]["name"]


@every_overlay
def test_only_the_ports_of_models_are_open_to_everyone(overlay: str) -> None:
    rules = [
        (manifest["metadata"]["name"], rule)
        for manifest in manifests(overlay)
        if manifest["kind"] == "NetworkPolicy"
        for rule in manifest["spec"]["ingress"]
    ]
    assert {name for name, rule in rules if not rule.get("from")} == {"rayloop-models"}
    ((_, models),) = [(name, rule) for name, rule in rules if name == "rayloop-models"]
    assert {p["port"] for p in models["ports"]} == {p["port"] for p in one(overlay, "Service")["spec"]["ports"]}
    everywhere = [rule for _, rule in rules if not rule.get("ports") and not rule.get("from")]
    assert everywhere == []
    allowed = {name: {p["port"] for p in rule.get("ports", [])} for name, rule in rules}
    assert allowed["rayloop-jobs"] == {Settings().dashboard_port}
    for pod in pods(overlay):
        labels = pod["metadata"]["labels"]
        policies = [m["spec"]["podSelector"]["matchLabels"] for m in manifests(overlay) if m["kind"] == "NetworkPolicy"]
        closed = any(policy.items() <= labels.items() for policy in policies)
        assert closed or labels["app.kubernetes.io/component"] == "client"


@every_overlay
def test_clients_are_admitted_to_the_dashboard_with_its_token(overlay: str) -> None:
    policy = one(overlay, "NetworkPolicy", "rayloop-jobs")
    admitted = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    clients = [one(overlay, "CronJob", "rayloop-retrain"), *(job for job in jobs() if job["kind"] == "Job")]
    for template in (template for manifest in clients for template in templates(manifest)):
        assert admitted.items() <= template["metadata"]["labels"].items()
        variables = own_variables(template["spec"]["containers"][0])
        assert variables.keys() == {"RAYLOOP_ADDRESS", *SET_BY_KUBERAY}
        assert variables["RAYLOOP_ADDRESS"] == "http://rayloop-head-svc:8265"


@every_overlay
def test_probes_ask_for_paths_that_exist(overlay: str) -> None:
    agent = ("/api/healthz", ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT)
    assert f'"{agent[0]}"' in Path(healthz_agent.__file__).read_text()
    door = (HAProxyConfig.__dataclass_fields__["health_check_endpoint"].default, "serve")
    for group, template in ray_templates(cluster(overlay)["spec"]):
        container = template["spec"]["containers"][0]
        live, ready = (container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness"))
        assert (live["path"], live["port"]) == agent
        assert (ready["path"], ready["port"]) == (door if group == "worker" else agent)


@every_overlay
def test_workers_have_time_to_drain(overlay: str) -> None:
    draining_s = float(
        one(overlay, "ConfigMap", "rayloop-environment")["data"]["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"]
    )
    for group, template in ray_templates(cluster(overlay)["spec"]):
        own = own_variables(template["spec"]["containers"][0])
        drain_s = float(own[DRAIN])
        assert drain_s < template["spec"]["terminationGracePeriodSeconds"]
        assert (drain_s == 0) if group == "head" else (drain_s > REQUEST_TIMEOUT_S + draining_s)
    assert hasattr(ray_constants, DRAIN)


@every_overlay
def test_containers_run_without_rights(overlay: str) -> None:
    for manifest in (*manifests(overlay), *jobs()):
        for pod in templates(manifest):
            security = pod["spec"]["securityContext"]
            assert security["runAsNonRoot"]
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["spec"]["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] or (
                    container["name"] in ("redis", "postgresql")
                )
                mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
                claims = {c["metadata"]["name"] for c in manifest["spec"].get("volumeClaimTemplates", [])}
                assert mounts.keys() <= {volume["name"] for volume in pod["spec"].get("volumes", [])} | claims


@every_overlay
def test_volumes_claim_what_exists_and_survives(overlay: str) -> None:
    claims = {m["metadata"]["name"] for m in manifests(overlay) if m["kind"] == "PersistentVolumeClaim"}
    used = set()
    for _, template in ray_templates(cluster(overlay)["spec"]):
        spec = template["spec"]
        names = {volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in spec["volumes"]}
        used |= {name for name in names.values() if name}
        places = {mount["mountPath"]: names[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
        home = one(overlay, "ConfigMap", "rayloop-environment")["data"]["RAYLOOP_HOME"]
        assert places[f"{home}/monitors"] == places[f"{home}/projects"] == "rayloop-state"
        assert {"/tmp", home} <= {place for place, claim in places.items() if claim is None}
    assert used == claims


@every_overlay
def test_labels_by_which_kuberay_selects_are_left_to_it(overlay: str) -> None:
    for _, template in ray_templates(cluster(overlay)["spec"]):
        assert not SELECTED_BY_KUBERAY & template["metadata"]["labels"].keys()


@every_overlay
def test_disruption_budget_leaves_a_worker_to_evict(overlay: str) -> None:
    (worker,) = [g for g in cluster(overlay)["spec"]["workerGroupSpecs"] if g["groupName"] == "worker"]
    budget = one(overlay, "PodDisruptionBudget", "rayloop-worker")["spec"]["minAvailable"]
    assert budget < worker["minReplicas"] or overlay == "one-node"


def test_second_cluster_has_its_own_name_and_leaves_callers_with_the_first() -> None:
    assert cluster("upgrade")["metadata"]["name"] == "rayloop-next"
    assert one("upgrade", "Service")["spec"]["selector"]["ray.io/cluster"] == cluster("production")["metadata"]["name"]
    assert one("upgrade", "CronJob", "rayloop-retrain")["spec"]["suspend"]


def test_alerts_are_those_of_the_code() -> None:
    (rule,) = kustomize.read(ALERTS)
    spec = json.loads(render_rules())
    if os.environ.get("UPDATE_GOLDEN"):
        ALERTS.write_text(json.dumps(rule | {"spec": spec}, indent=1) + "\n")
        return
    assert rule["spec"] == spec, "UPDATE_GOLDEN=1 python -m pytest tests/unit/test_kubernetes.py writes them"


def test_image_has_the_versions_of_this_release() -> None:
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for manifest in (*(m for o in OVERLAYS for m in manifests(o)), *jobs()):
        images = {container["image"] for container in kustomize.containers(manifest)}
        assert {image for image in images if image.startswith("rayloop")} <= {f"rayloop:{rayloop.__version__}"}
        assert all(":" in image and not image.endswith(":latest") for image in images)
    clusters = [cluster(overlay)["spec"] for overlay in OVERLAYS]
    clusters += [job["spec"]["rayClusterSpec"] for job in jobs() if job["kind"] == "RayJob"]
    assert {spec["rayVersion"] for spec in clusters} == {pins["ray"]}
    text = (FOLDER / "Containerfile").read_text()
    assert f"torch=={pins['torch']}" in text
    assert re.search(r"^ARG PYTHON=\S+:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)


def test_image_has_every_package_and_the_user_of_the_pods() -> None:
    text = (FOLDER / "Containerfile").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    (packages,) = re.findall(r"^include = \[(.*)\]$", project, re.MULTILINE)
    for package in re.findall(r"\"(\w+)\*\"", packages):
        assert f"COPY {package} {package}\n" in text
    users = {
        pod["spec"]["securityContext"]["runAsUser"] for m in (cluster("production"), *jobs()) for pod in templates(m)
    }
    assert [f"USER {user}:{user}" in text for user in users] == [True]
    assert "umask 077" in text
    folder = re.search(r"^WORKDIR (/srv\S+)$", text, re.MULTILINE)[1]
    (train,) = [job for job in jobs() if job["kind"] == "RayJob"]
    assert yaml.safe_load(train["spec"]["runtimeEnvYAML"]) == {"working_dir": folder}
    home = one("production", "ConfigMap", "rayloop-environment")["data"]["RAYLOOP_HOME"]
    assert f"RAYLOOP_HOME={home}\n" in text
