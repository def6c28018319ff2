"""Explanations of one row over HTTP: LightGBM with 400 trees and the default MLP, on 30 features.

Both models are trained on a generated table, and served with the prediction log on. A client sends one request at a
time over one connection. Predictions are timed alone, and again while another client asks for explanations without a
pause.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pyarrow as pa
import ray
from scipy.special import expit

from benchmarks.results import Row, Target, row
from benchmarks.serving.subjects import own_settings
from cluster import connection, local_cluster
from cluster.actors import get_result
from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import Snapshot, Task
from deployments.rollout.serve_config import ServingOptions, connect_config_writer
from features.attributions.tree_shap import TreeShap
from features.definitions import Column, FeatureSet
from features.encoder import Arrays, Encoder
from features.manifest import Manifest
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.export.explainer_export import export_explainer
from trainers.export.onnx_export import export
from trainers.input_spec import InputSpec
from trainers.loop import boosting_loop, train_loop
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_spec import TrainSpec
from trainers.loop.trainer import FitResult
from trainers.trees.booster import join_arrays
from trainers.trees.leaf_paths import leaf_paths
from trainers.trees.libraries import library_of
from trainers.trees.tree_model import TreeModel

FEATURES = 30
ROWS = 20_000
REQUESTS, FEW_REQUESTS = 2_000, 50
_TASK = Task(kind="binary", label="y")
_COLUMNS = tuple(Column(name=f"x{i}", kind="number") for i in range(FEATURES))
_FEATURE_SET = FeatureSet(name="explained", request=_COLUMNS)
_WARM_UP = 20


class _Model(NamedTuple):
    name: str
    spec: ModelSpec
    limit_ms: float


_MODELS = (
    _Model("LightGBM, 400 trees of 31 leaves", ModelSpec(build="lightgbm", parameters={"rounds": 400}), 10.0),
    _Model("MLP, 256 and 128 units", ModelSpec(build="mlp"), 50.0),
)


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure latencies and additivity of explanations.

    Args:
        small: Whether to send few requests.
        progress: Receives lines for people.
    """
    table = _generated(np.random.default_rng(0))
    count = FEW_REQUESTS if small else REQUESTS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, model in enumerate(_MODELS):
            result = _fit(model.spec, table)
            bundle = _write_bundle(result, folder / f"bundle{number}", table)
            progress(f"{model.name} is trained")
            with _served(bundle, folder / f"home{number}") as url:
                yield from _measure(model, url, table, count)
            if model.spec.build == "lightgbm":
                yield _library(model, result, table, count)


def _generated(random: np.random.Generator) -> pa.Table:
    """Numbers, some of them missing, and a label that depends on sums and products of them."""
    values = random.normal(size=(ROWS, FEATURES))
    signal = values @ random.normal(size=FEATURES) + values[:, 0] * values[:, 1] + random.normal(size=ROWS)
    values[random.random(values.shape) < 0.02] = np.nan
    columns = {column.name: pa.array(values[:, i], from_pandas=True) for i, column in enumerate(_COLUMNS)}
    return pa.table({**columns, "label": (signal > 0).astype(float)})


def _fit(spec: ModelSpec, table: pa.Table) -> FitResult:
    config = TrainConfig(workers=1, epochs=3, patience=ROWS)
    encoder = Encoder.fit(_COLUMNS, table)
    encoded, labels = encoder.encode(table), table["label"].to_numpy()
    inputs = InputSpec.fit(encoder, _TASK, encoded, labels)
    train, held_out = (_encoded_rows(encoded, labels, part) for part in (slice(0, -2000), slice(-2000, None)))
    job = TrainSpec(spec, config, _TASK, inputs)
    if spec.is_module:
        loaders = MemoryLoader(train, config.batch_size, config.seed), MemoryValidationLoader(held_out)
        trained = train_loop.train(job, *loaders, ProcessGroup(), lambda epoch: None)
    else:
        trained = boosting_loop.train(job, train, held_out)
    return FitResult(spec, config, _TASK, encoder, inputs, trained.state, trained.epochs, {}, {}, {"total": 0.0})


def _encoded_rows(arrays: Arrays, labels: np.ndarray, part: slice) -> EncodedRows:
    return EncodedRows(arrays["numbers"][part], arrays["codes"][part], labels[part].astype(np.float32))


def _write_bundle(result: FitResult, folder: Path, table: pa.Table) -> Path:
    folder.mkdir()
    export(result, folder, table.slice(0, 100))
    export_explainer(result, folder, table, {})
    Manifest(
        model=_FEATURE_SET.name,
        task=_TASK,
        features=_FEATURE_SET,
        feature_hash=_FEATURE_SET.content_hash,
        encoder=result.encoder,
        snapshot=Snapshot(table="explained.training", id=1, rows=ROWS),
        code_version="benchmark",
    ).save(folder)
    return folder


@contextmanager
def _served(bundle: Path, home: Path) -> Iterator[str]:
    """The URL of the model while it is served."""
    settings: Settings = own_settings(home)
    local_cluster.start(settings)
    connection.use_token()
    try:
        connection.connect(settings)
        registry = Registry(settings)
        with registry.run("benchmarks", "explain") as run:
            version = registry.register(_FEATURE_SET.name, run, bundle, {})
        registry.set_alias(version, CHAMPION)
        options = ServingOptions(profile_window_s=None)
        get_result(connect_config_writer(settings).deploy.remote(version, options))
        yield f"{settings.endpoint}/v2/models/{_FEATURE_SET.name}"
    finally:
        ray.shutdown()
        local_cluster.stop(settings)


def _measure(model: _Model, url: str, table: pa.Table, count: int) -> Iterator[Row]:
    bodies = [{"instances": [instance]} for instance in table.drop_columns(["label"]).slice(0, count).to_pylist()]
    work = f"explain: one row of {FEATURES} features, {model.name}"
    milliseconds, answers = _ask(url, "explain", bodies)
    yield row(work, "p50 of /explain, ms", float(np.quantile(milliseconds, 0.5)))
    target = Target(of="value", sign="≤", limit=model.limit_ms)
    yield row(work, "p99 of /explain, ms", float(np.quantile(milliseconds, 0.99)), target=target)
    explanations = [answer["explanations"][0] for answer in answers]
    worst = max(abs(_score(one) - one["score"]) for one in explanations)
    largest = Target(of="value", sign="≤", limit=1e-4)
    yield row(work, "largest difference of sum and score", worst, target=largest, note=explanations[0]["method"])
    if explanations[0]["errors"] is not None:
        ratios = [max(one["errors"].values()) / max(map(abs, one["contributions"].values())) for one in explanations]
        yield row(work, "largest standard error by largest contribution, median", float(np.median(ratios)))
    alone, _ = _ask(url, "invocations", bodies)
    with _explaining(url, bodies):
        beside, _ = _ask(url, "invocations", bodies)
    for quantile, name in ((0.5, "p50"), (0.99, "p99")):
        peer = "without explanations", float(np.quantile(alone, quantile))
        yield row(work, f"{name} of predictions beside explanations, ms", float(np.quantile(beside, quantile)), *peer)


def _ask(url: str, path: str, bodies: list[dict[str, Any]]) -> tuple[list[float], list[dict[str, Any]]]:
    """Milliseconds of each request, and the answers."""
    milliseconds, answers = list[float](), list[dict[str, Any]]()
    with httpx.Client(timeout=30.0) as client:
        for body in [*bodies[:_WARM_UP], *bodies]:
            started = time.perf_counter()
            response = client.post(f"{url}/{path}", json=body)
            milliseconds.append((time.perf_counter() - started) * 1e3)
            answers.append(response.raise_for_status().json())
    return milliseconds[_WARM_UP:], answers[_WARM_UP:]


@contextmanager
def _explaining(url: str, bodies: list[dict[str, Any]]) -> Iterator[None]:
    """One client that asks for explanations without a pause."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            _ask(url, "explain", bodies[:_WARM_UP])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _score(explanation: dict[str, Any]) -> float:
    total = float(explanation["base"] + sum(explanation["contributions"].values()))
    return float(expit(total)) if explanation["unit"] == "log-odds" else total


def _library(model: _Model, result: FitResult, table: pa.Table, count: int) -> Row:
    """In this process, without HTTP: rayloop's TreeSHAP beside the library's."""
    arrays = result.encoder.encode(table.slice(0, count))
    library = library_of(result.spec).load(result.state["model.0"].tobytes())
    columns = join_arrays(arrays)
    ours = _explainer(result)
    own = _timed(lambda i: ours({name: values[i : i + 1] for name, values in arrays.items()}), count)
    theirs = _timed(lambda i: library.predict(columns[i : i + 1], pred_contrib=True, num_threads=1), count)
    work = f"explain: TreeSHAP of one row in process, {model.name}"
    return row(work, "p50, ms", own, "LightGBM's pred_contrib", theirs, note="one thread each")


def _explainer(result: FitResult) -> Callable[[Arrays], object]:
    model = result.build_model()
    assert isinstance(model, TreeModel)
    paths = leaf_paths(model.forest(), 1.0, 0.0)
    assert paths is not None
    explainer = TreeShap(paths, np.arange(FEATURES))
    return lambda arrays: explainer.explain(arrays, 0)


def _timed(work: Callable[[int], object], count: int) -> float:
    milliseconds = []
    for i in range(count):
        started = time.perf_counter()
        work(i)
        milliseconds.append((time.perf_counter() - started) * 1e3)
    return float(np.median(milliseconds))
