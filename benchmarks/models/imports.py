"""From a model file to a served version by one command: seconds for each kind of file, and what is then answered.

A table of 5,000 rows with a category and missing values; each command is the one that a user types, in its own process,
on a local cluster that runs already. Its start is measured apart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np
import polars as pl
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skops import io as skops

from benchmarks.results import Row, Target, row
from benchmarks.serving.subjects import own_settings

ROWS, FEW_ROWS = 5_000, 500
ASKED = 200
LIMIT_S = 60.0
NUMBERS = ["age", "price"]


class Foreign(NamedTuple):
    """A saved model."""

    name: str
    kind: str
    """For the page."""
    source: str
    """File or URI."""
    columns: tuple[str, ...]
    """Names of its inputs, where its file has none."""
    expected: np.ndarray
    """Its own probabilities of the first rows."""


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Import an ONNX graph, a pipeline of scikit-learn, an MLflow model and an XGBoost file."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = own_settings(folder / "home")
        variables = {**os.environ, **settings.environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        table, labels = _table(FEW_ROWS if small else ROWS)
        for name, frame in (("rows", table), ("filled", _filled(table))):
            frame.with_columns(pl.Series("outcome", labels)).write_parquet(folder / f"{name}.parquet")
        models = [make(folder, table, labels) for make in (_onnx, _pipeline, _mlflow, _xgboost)]
        start = _seconds(folder, variables, "up")
        try:
            for model in models:
                progress(f"import of {model.kind}")
                words = ["--columns", ",".join(model.columns)] if model.columns else []
                file = "filled.parquet" if model.columns else "rows.parquet"
                command = ["import", model.name, model.source, "--rows", file, "--label", "outcome", *words]
                seconds = _seconds(folder, variables, *command)
                difference = _difference(settings.endpoint, model, table)
                yield row(
                    f"import: {model.kind}, {table.height:,} reference rows",
                    "s from the file to a served version",
                    seconds,
                    target=Target(of="value", sign="≤", limit=LIMIT_S),
                    note=f"one command; the cluster ran, its start took {start:.0f} s; answers over HTTP differ from "
                    f"the model's own by at most {difference:.1g} on {ASKED} rows",
                )
        finally:
            _seconds(folder, variables, "down")


def _seconds(folder: Path, variables: Mapping[str, str], *words: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "rayloop", *words]
    process = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(process.stdout[-3000:] + process.stderr[-3000:])
    return time.perf_counter() - start


def _difference(endpoint: str, model: Foreign, table: pl.DataFrame) -> float:
    rows = _filled(table).select(model.columns) if model.columns else table
    body = {"instances": rows[:ASKED].to_dicts()}
    answer = httpx.post(f"{endpoint}/v2/models/{model.name}/invocations", json=body, timeout=60)
    answer.raise_for_status()
    return float(np.abs(np.array(answer.json()["predictions"]) - model.expected).max())


def _table(count: int) -> tuple[pl.DataFrame, np.ndarray]:
    rng = np.random.default_rng(19)
    age, price = rng.normal(40, 10, count), rng.exponential(30, count)
    city = rng.choice(["bergen", "oslo", "rome", "turin"], count)
    labels = ((city == "rome") * 1.5 + price / 30 + rng.normal(0, 0.5, count) > 1.2).astype(int)
    place = pl.Series(np.arange(count))
    table = pl.DataFrame({"age": age, "city": city, "price": price}).with_columns(
        age=pl.when(place % 7 != 0).then("age"), city=pl.when(place % 11 != 0).then("city")
    )
    return table, labels


def _filled(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col("age").fill_null(40.0))


def _frame(table: pl.DataFrame) -> Any:
    frame = table.to_pandas()
    return frame.assign(city=frame["city"].astype("category"))


def _onnx(folder: Path, table: pl.DataFrame, labels: np.ndarray) -> Foreign:
    values = _filled(table).select(NUMBERS).to_numpy()
    model = make_pipeline(StandardScaler(), RandomForestClassifier(100, max_depth=8, random_state=0))
    graph = to_onnx(model.fit(values, labels), values[:1].astype(np.float32), target_opset=15)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    expected = model.predict_proba(values[:ASKED])[:, 1]
    return Foreign("from_onnx", "ONNX graph of a random forest", "model.onnx", tuple(NUMBERS), expected)


def _pipeline(folder: Path, table: pl.DataFrame, labels: np.ndarray) -> Foreign:
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("numbers", numbers, NUMBERS), ("texts", texts, ["city"])])
    frame = table.to_pandas()
    frame["city"] = frame["city"].astype(object).where(frame["city"].notna(), np.nan)
    model = make_pipeline(columns, LogisticRegression()).fit(frame, labels)
    skops.dump(model, folder / "model.skops")
    return Foreign(
        "from_sklearn", "sklearn pipeline (skops)", "model.skops", (), model.predict_proba(frame[:ASKED])[:, 1]
    )


def _mlflow(folder: Path, table: pl.DataFrame, labels: np.ndarray) -> Foreign:
    import lightgbm
    import mlflow

    model = lightgbm.LGBMClassifier(n_estimators=400, verbose=-1, num_threads=2).fit(_frame(table), labels)
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("risk", f"file://{folder}/mlflow"))
    with mlflow.start_run():
        mlflow.lightgbm.log_model(model.booster_, name="model", registered_model_name="risk")
    expected = np.asarray(model.predict_proba(_frame(table)[:ASKED]))[:, 1]
    return Foreign("from_mlflow", "MLflow model (LightGBM, 400 trees)", "models:/risk/1", (), expected)


def _xgboost(folder: Path, table: pl.DataFrame, labels: np.ndarray) -> Foreign:
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=400, max_depth=6, learning_rate=0.05, enable_categorical=True, n_jobs=2)
    model.fit(_frame(table), labels).save_model(folder / "model.ubj")
    expected = model.predict_proba(_frame(table)[:ASKED])[:, 1]
    return Foreign("from_xgboost", "XGBoost file (400 trees)", "model.ubj", (), expected)
