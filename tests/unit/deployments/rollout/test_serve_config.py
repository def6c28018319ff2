"""Serve's configuration is written whole: each change builds on the one before."""

import asyncio
import copy
import threading
from typing import Any

import pytest
import ray.serve

from cluster.door.moves import Moves
from cluster.errors import RayloopError, RolloutError, WriterReplaced
from cluster.settings import Settings
from cluster.values import ModelVersion, Task
from deployments.rollout import serve_config, serve_details
from deployments.rollout.applications import kept_split
from deployments.rollout.serve_config import ServeConfigWriter
from deployments.rollout.serve_details import MODEL_DEPLOYMENT
from deployments.serve_schema import ROOT_APP, Halt, ServerConfig, TrafficSplit, model_app_name
from features.python_models.bundle import PYTHON_TAG, PythonRecord, PythonRuntime
from tests.factories.errors import raises

MODELS = 20
WINDOW_S = 0.005
"""Seconds between reading and writing, in which another change could interfere."""


class Serve:
    """A fake of Serve's REST API: a write replaces all applications."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {}
        self._pause = threading.Event()
        self.newest = 0
        self.ended: list[None] = []

    def take_epoch(self, actor: str) -> int:
        self.newest += 1
        return self.newest

    def get_serve_details(self) -> dict[str, Any]:
        apps = {name: self._report(copy.deepcopy(declared)) for name, declared in self.applications.items()}
        self._pause.wait(WINDOW_S)
        return {"applications": apps}

    @staticmethod
    def _report(declared: dict[str, Any]) -> dict[str, Any]:
        deployments = {
            d["name"]: {"status": "HEALTHY", "replicas": [], "deployment_config": d}
            for d in declared.get("deployments", [])
        }
        return {"status": "RUNNING", "deployments": deployments, "deployed_app_config": declared}

    def deploy_applications(self, config: dict[str, Any]) -> None:
        self.config = config
        self.applications = {app["name"]: app for app in config["applications"]}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    serve = Serve()
    monkeypatch.setattr(serve_details, "connect_serve_api", lambda settings: serve)
    monkeypatch.setattr(serve_config, "take_epoch", serve.take_epoch)
    monkeypatch.setattr(serve_config, "is_newest", lambda actor, epoch: epoch == serve.newest)
    monkeypatch.setattr(serve_config, "end_actor", lambda: serve.ended.append(None))
    monkeypatch.setattr(serve_config, "application_environment", lambda settings: {})
    return serve


async def remove_concurrently(settings: Settings) -> None:
    writer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
    await writer.__init__(settings)

    await asyncio.gather(*(writer.remove(f"model-{i}") for i in range(0, MODELS, 2)))


def test_remove_of_models_concurrently_keeps_the_others(serve: Serve, settings: Settings) -> None:
    declared = {model_app_name(f"model-{i}"): {"name": model_app_name(f"model-{i}")} for i in range(MODELS)}
    serve.applications = declared | {"foreign": {"name": "foreign", "import_path": "other:app"}}
    asyncio.run(remove_concurrently(settings))
    remaining = {model_app_name(f"model-{i}") for i in range(1, MODELS, 2)}
    assert set(serve.applications) == remaining | {"foreign"}
    assert serve.applications["foreign"]["import_path"] == "other:app"


@pytest.mark.parametrize(("host", "location"), [("127.0.0.1", "HeadOnly"), ("0.0.0.0", "EveryNode")])
def test_first_write_of_a_host_starts_proxies_where_callers_reach_them(
    serve: Serve, settings: Settings, host: str, location: str
) -> None:
    asyncio.run(remove_concurrently(settings.model_copy(update={"serve_host": host})))
    assert serve.config["http_options"]["host"] == host
    assert serve.config["proxy_location"] == location


def version(number: str) -> ModelVersion:
    return ModelVersion(model="m", version=number, run_id="r", bundle_uri="/nowhere")


def split(rollout: str, *numbers: str) -> TrafficSplit:
    starts = tuple(0.3 * i for i in range(len(numbers)))
    return TrafficSplit(
        rollout=rollout, challengers=tuple(map(version, numbers)), starts=starts, share=0.3, timeout_s=1.0
    )


@pytest.fixture
def writer(serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A writer without replicas to wait for; it serves version 1 of "m", and versions 2 and 3 are on trial."""
    monkeypatch.setattr(ray.serve, "get_deployment_handle", lambda *_: None)
    config = ServerConfig(champion=version("1"), split=split("a", "2", "3"))
    app = {
        "name": model_app_name("m"),
        "deployments": [{"name": MODEL_DEPLOYMENT, "user_config": config.model_dump(mode="json")}],
    }
    serve.applications = {app["name"]: app}
    writer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
    asyncio.run(writer.__init__(settings))
    return writer


def current(writer: Any) -> ServerConfig:
    return asyncio.run(writer.current_config("m"))


def test_share_of_a_model_is_kept_with_the_root_application_and_other_changes_leave_it(
    writer: Any, serve: Serve, settings: Settings
) -> None:
    with raises(RayloopError, "rayloop.model_not_deployed"):
        asyncio.run(writer.set_share("m", "http://second", 0.1))
    serve.applications[ROOT_APP] = {"name": ROOT_APP, "deployments": [{"name": "Front"}]}
    moves = Moves(address="http://second", shares={"m": 0.1}, writer=1)
    assert asyncio.run(writer.set_share("m", "http://second", 0.1)) == moves
    asyncio.run(writer.set_champion(version("2")))
    # Another writer, which may be of another release.
    asyncio.run(remove_concurrently(settings))
    assert asyncio.run(writer.moves()) == moves
    serve.newest = 1
    assert asyncio.run(writer.set_share("m", "http://second", None)) == Moves(writer=1)


def test_halted_challenger_leaves_the_split_and_the_others_keep_their_slices(writer: Any) -> None:
    asyncio.run(writer.halt_challengers("m", Halt(rollout="a", versions=("2",), reason="worse")))
    left = current(writer).split
    assert left is not None
    assert ([v.version for v in left.challengers], left.starts, left.share) == (["3"], (0.3,), 0.3)
    asyncio.run(writer.halt_challengers("m", Halt(rollout="a", versions=("3",), reason="enough")))
    assert current(writer).split is None
    assert current(writer).halt == Halt(rollout="a", versions=("2", "3"), reason="enough")


def test_split_with_a_halted_challenger_is_refused_for_the_rest_of_its_rollout(writer: Any) -> None:
    asyncio.run(writer.halt_challengers("m", Halt(rollout="a", versions=("2",), reason="worse")))
    with raises(RolloutError, "rollout.challengers_halted", model="m", rollout="a", versions=["2"]):
        asyncio.run(writer.set_rollout("m", split("a", "2", "3")))
    asyncio.run(writer.set_rollout("m", split("a", "3")))
    asyncio.run(writer.set_champion(version("3")))
    assert current(writer).halt is not None
    asyncio.run(writer.set_rollout("m", split("b", "2")))
    assert current(writer).split == split("b", "2")


def test_halt_of_an_earlier_rollout_does_not_count_for_a_later_one(writer: Any) -> None:
    asyncio.run(writer.halt_challengers("m", Halt(rollout="a", versions=("2", "3"), reason="worse")))
    asyncio.run(writer.set_rollout("m", split("b", "2")))
    asyncio.run(writer.halt_challengers("m", Halt(rollout="b", versions=("2",), reason="slow")))
    assert current(writer).halt == Halt(rollout="b", versions=("2",), reason="slow")


def test_controller_with_a_lower_epoch_changes_nothing(writer: Any) -> None:
    asyncio.run(writer.halt_challengers("m", Halt(rollout="a", versions=("2", "3"), reason="worse"), 7))
    halted = current(writer)
    assert (halted.split, halted.epoch) == (None, 7)
    orders = [
        lambda: writer.set_rollout("m", split("b", "2"), 6),
        lambda: writer.set_champion(version("2"), 6),
        lambda: writer.halt_challengers("m", Halt(rollout="b", versions=("2",), reason="late"), 6),
        lambda: writer.start_challenger("b", version("2"), serve_config.ServingOptions(), None, 6),
    ]
    for order in orders:
        with raises(WriterReplaced, "cluster.writer_replaced", writer="rollout:m", epoch=6, newest=7):
            asyncio.run(order())
    assert current(writer) == halted
    # A person's order has no epoch, and keeps the controller's.
    asyncio.run(writer.set_champion(version("2")))
    assert (current(writer).champion, current(writer).epoch) == (version("2"), 7)


def test_writer_that_was_replaced_writes_nothing_and_ends(serve: Serve, writer: Any, settings: Settings) -> None:
    newer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
    asyncio.run(newer.__init__(settings))
    asyncio.run(newer.set_champion(version("3")))
    with raises(WriterReplaced, "cluster.writer_replaced", writer=serve_config.ACTOR, epoch=1, newest=2):
        asyncio.run(writer.set_champion(version("2")))
    assert current(newer).champion == version("3")
    assert serve.ended == [None]


@pytest.mark.parametrize("by", ["the watch", "the next write"])
def test_what_a_stopped_writer_overwrites_later_is_restored(
    serve: Serve, writer: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    asyncio.run(writer.halt_challengers("m", Halt(rollout="a", versions=("2",), reason="worse")))
    old = copy.deepcopy(serve.applications)
    monkeypatch.setattr(serve_config, "WATCH_S", 0.01)

    async def run() -> None:
        newer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
        await newer.__init__(settings)
        await newer.halt_challengers("m", Halt(rollout="a", versions=("3",), reason="worse"))
        # The earlier one was stopped between its question and its PUT.
        serve.applications = old
        if by == "the next write":
            await newer.set_champion(version("2"))
        deadline = asyncio.get_running_loop().time() + 20.0
        while (await newer.current_config("m")).halt.versions != ("2", "3"):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_deployment_keeps_the_split_of_a_probation_and_no_other() -> None:
    copies = split("a", "2").model_copy(update={"share": 0.0, "copies": 0.1})
    assert kept_split(None, version("1")) is None
    assert kept_split(ServerConfig(champion=version("1")), version("2")) is None
    assert kept_split(ServerConfig(champion=version("1"), split=copies), version("1")) == copies
    for served, deployed in ((copies, "3"), (split("a", "2"), "1")):
        with raises(RolloutError, "rollout.in_progress", model="m", rollout="a"):
            kept_split(ServerConfig(champion=version("1"), split=served), version(deployed))


def python_version(number: str) -> ModelVersion:
    """A version of "m" that is a Python model."""
    record = PythonRecord(
        class_name="models:Upper",
        parameters={},
        task=Task(kind="binary", label="y"),
        columns=(),
        sha256="0",
        runtime=PythonRuntime(env_vars={"A": "1"}, cpus=0.5, replicas=2),
    )
    return version(number).model_copy(update={"tags": {PYTHON_TAG: record.model_dump_json()}})


def python_apps(serve: Serve) -> dict[str, dict[str, Any]]:
    return {name.removeprefix("m.python."): app for name, app in serve.applications.items() if ".python." in name}


def test_python_model_of_a_challenger_runs_before_it_and_goes_with_it(writer: Any, serve: Serve) -> None:
    asyncio.run(writer.start_challenger("a", python_version("4"), serve_config.ServingOptions(), 64.0))
    asyncio.run(writer.start_challenger("a", version("3"), serve_config.ServingOptions()))
    [deployment] = python_apps(serve)["4"]["deployments"]
    assert (deployment["name"], deployment["num_replicas"]) == ("PythonServer", 2)
    assert deployment["ray_actor_options"] == {"num_cpus": 0.5, "num_gpus": 0.0}
    assert deployment["user_config"]["max_growth_mib"] == 64.0
    assert python_apps(serve)["4"]["runtime_env"] == {"env_vars": {"A": "1"}}
    asyncio.run(writer.retain_challengers("m", "a", ("3", "4")))
    assert set(python_apps(serve)) == {"4"}
    asyncio.run(writer.retain_challengers("m", "a", ("3",)))
    assert python_apps(serve) == {}


def test_python_model_stays_through_its_promotion_and_until_nothing_needs_it(writer: Any, serve: Serve) -> None:
    asyncio.run(writer.start_challenger("a", python_version("4"), serve_config.ServingOptions(), 64.0))
    asyncio.run(writer.set_champion(python_version("4")))
    asyncio.run(writer.retain_challengers("m", "a", ()))
    [deployment] = python_apps(serve)["4"]["deployments"]
    # A champion's memory has no limit.
    assert deployment["user_config"]["max_growth_mib"] is None
    # The former champion scores copies during a probation: the controller names it.
    asyncio.run(writer.set_champion(python_version("5")))
    asyncio.run(writer.retain_challengers("m", "a", ("4",)))
    assert set(python_apps(serve)) == {"4", "5"}
    asyncio.run(writer.set_champion(version("1")))
    assert set(python_apps(serve)) == {"4", "5"}
    asyncio.run(writer.retain_challengers("m", "a", ()))
    assert python_apps(serve) == {}


def test_python_model_that_does_not_run_is_removed_and_the_champion_stays(
    writer: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = current(writer)
    report = serve._report

    def fail(declared: dict[str, Any]) -> dict[str, Any]:
        failed = {"status": "DEPLOY_FAILED", "message": "DataError: it does not load"}
        return report(declared) | (failed if ".python." in declared["name"] else {})

    monkeypatch.setattr(serve, "_report", fail)
    with raises(RayloopError, "rayloop.deployment_failed", app="m.python.4"):
        asyncio.run(writer.set_champion(python_version("4")))
    with raises(RayloopError, "rayloop.deployment_failed", app="m.python.5"):
        asyncio.run(writer.start_challenger("a", python_version("5"), serve_config.ServingOptions()))
    assert current(writer) == before
    assert set(serve.applications) == {model_app_name("m")}


def test_end_of_a_rollout_does_not_wait_for_the_python_model_of_the_champion(
    writer: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(writer.set_champion(python_version("4")))
    asyncio.run(writer.set_rollout("m", split("b", "2")))
    down = {"m.python.4"}
    report = serve._report

    def unhealthy(declared: dict[str, Any]) -> dict[str, Any]:
        return report(declared) | ({"status": "UNHEALTHY"} if declared["name"] in down else {})

    monkeypatch.setattr(serve, "_report", unhealthy)
    asyncio.run(writer.set_champion(python_version("4")))
    assert current(writer).split is None
