"""A model that was trained elsewhere has the same scores as the graph that it becomes, or is refused with a code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import polars as pl
import pytest
import xgboost
from onnx import TensorProto, helper
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from cluster.errors import DataError
from cluster.values import Task, TaskKind
from features.definitions import Column
from tests.factories.errors import raises
from tests.factories.trainers.foreign_models import NUMBERS, data_frame, numeric_onnx, pipeline, table
from trainers.imports.conversion import MAX_PARITY, Conversion, convert, infer_task, match_columns, name_classes
from trainers.imports.forest_source import read_lightgbm, read_xgboost
from trainers.imports.model_files import ModelFile, find_model, read_model
from trainers.imports.onnx_source import OnnxSource
from trainers.imports.sklearn_source import load_skops, read_estimator
from trainers.imports.source_model import InputKind, SourceModel
from trainers.scoring import onnx_scorer

CLASSES = ("low", "mid", "top")
KINDS: list[TaskKind] = ["binary", "multiclass", "regression"]
PRESENT: dict[str, InputKind] = {"age": "number", "city": "category", "price": "number"}


def take(source: SourceModel, kind: TaskKind, rows: pl.DataFrame, **present: InputKind) -> Conversion:
    """Match, infer and convert, as an import does."""
    source, columns = match_columns(source, present or PRESENT, list(present or PRESENT))
    source = name_classes(source, CLASSES) if kind == "multiclass" else source
    classes = source.signature.classes or CLASSES
    assert infer_task(source.signature, source.outputs(rows), 2 if kind == "binary" else 9) == kind
    return convert(source, columns, rows, Task(kind=kind, label="y", classes=classes if kind == "multiclass" else ()))


def served(conversion: Conversion, rows: pl.DataFrame) -> np.ndarray:
    """Return the scores of the graph."""
    arrays = conversion.encoder.encode(rows.select(c.name for c in conversion.encoder.columns).to_arrow())
    return onnx_scorer.score(onnx_scorer.open_session(conversion.graph), arrays)


def fit_trees(library: Any, kind: TaskKind) -> Any:
    rows, labels = table()
    y = np.searchsorted(CLASSES, labels[kind]) if kind == "multiclass" else labels[kind]
    word = "Regressor" if kind == "regression" else "Classifier"
    if library is lightgbm:
        return getattr(lightgbm, f"LGBM{word}")(n_estimators=12, verbose=-1, cat_smooth=1, min_data_per_group=5).fit(
            data_frame(rows), y
        )
    return getattr(xgboost, f"XGB{word}")(n_estimators=12, enable_categorical=True, max_cat_to_onehot=1).fit(
        data_frame(rows), y
    )


@pytest.mark.parametrize("kind", KINDS)
def test_lightgbm_file_has_the_scores_of_the_library(kind: TaskKind) -> None:
    rows, model = table().rows, fit_trees(lightgbm, kind)
    taken = take(read_lightgbm(model.booster_.model_to_string().encode()), kind, rows)
    predict = model.predict if kind == "regression" else model.predict_proba
    expected = predict(data_frame(rows))
    expected = expected[:, 1] if kind == "binary" else expected
    assert np.abs(served(taken, rows) - expected).max() < MAX_PARITY * max(1.0, expected.std())
    assert taken.encoder.vocabularies == {"city": ("oslo", "rome", "x y")}


@pytest.mark.parametrize("form", ["json", "ubj"])
@pytest.mark.parametrize("kind", KINDS)
def test_xgboost_file_has_the_scores_of_the_library(kind: TaskKind, form: str) -> None:
    rows, model = table().rows, fit_trees(xgboost, kind)
    taken = take(read_xgboost(bytes(model.get_booster().save_raw(form))), kind, rows)
    predict = model.predict if kind == "regression" else model.predict_proba
    expected = predict(data_frame(rows))
    expected = expected[:, 1] if kind == "binary" else expected
    assert np.abs(served(taken, rows) - expected).max() < MAX_PARITY * max(1.0, expected.std())


def test_early_stopped_xgboost_is_taken_up_to_its_best_round() -> None:
    rows, labels = table()
    frame, y = data_frame(rows), labels["binary"]
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3, enable_categorical=True)
    model.fit(frame[:300], y[:300], eval_set=[(frame[300:], y[300:])], verbose=False)
    assert model.best_iteration < 59
    taken = take(read_xgboost(bytes(model.get_booster().save_raw("json"))), "binary", rows)
    assert np.abs(served(taken, rows) - model.predict_proba(frame)[:, 1]).max() < MAX_PARITY


@pytest.mark.parametrize("missing", [0.0, np.nan])
def test_whole_numbers_are_categories_where_the_trees_test_them(missing: float) -> None:
    rows, labels = table()
    codes = np.where(rows["city"].is_null(), missing, rows["city"].fill_null("").rank("dense").to_numpy() + 4.0)
    matrix = np.column_stack([rows["age"].to_numpy(), codes, rows["price"].to_numpy()])
    model = lightgbm.LGBMClassifier(n_estimators=12, verbose=-1, cat_smooth=1, min_data_per_group=5)
    model.fit(matrix, labels["binary"], categorical_feature=[1])
    texts = [None if np.isnan(code) else str(int(code)) for code in codes]
    given = rows.with_columns(pl.Series("city", texts, pl.String))
    taken = take(read_lightgbm(model.booster_.model_to_string().encode()), "binary", given, **PRESENT)
    assert [column.kind for column in taken.encoder.columns] == ["number", "category", "number"]
    assert np.abs(served(taken, given) - model.booster_.predict(matrix)).max() < MAX_PARITY
    unknown = given.with_columns(pl.lit("77").alias("city"))
    matrix[:, 1] = 77
    assert np.abs(served(taken, unknown) - model.booster_.predict(matrix)).max() < MAX_PARITY


@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        (LogisticRegression(), "binary"),
        (LogisticRegression(), "multiclass"),
        (RandomForestClassifier(8, random_state=0), "multiclass"),
        (GradientBoostingRegressor(n_estimators=8), "regression"),
    ],
)
def test_pipeline_with_texts_and_missing_values_has_its_own_scores(estimator: Any, kind: TaskKind) -> None:
    rows, labels = table()
    model = pipeline(estimator, labels[kind], rows)
    taken = take(read_estimator(model), kind, rows)
    assert taken.parity <= MAX_PARITY
    unknown = rows.with_columns(pl.lit("never seen").alias("city"))
    expected = (model.predict if kind == "regression" else model.predict_proba)(unknown.to_pandas())
    expected = expected[:, 1] if kind == "binary" else expected
    assert np.abs(served(taken, unknown) - expected).max() < MAX_PARITY * max(1.0, expected.std())


def test_pipeline_whose_graph_has_other_scores_is_refused() -> None:
    rows, labels = table()
    model = pipeline(HistGradientBoostingClassifier(max_iter=8, random_state=0), labels["binary"], rows)
    with raises(DataError, "data.import_parity", rows=rows.height):
        take(read_estimator(model), "binary", rows)


@pytest.mark.parametrize("library", [lightgbm, xgboost])
def test_pickled_trees_are_read_as_model_files(library: Any) -> None:
    model = fit_trees(library, "binary")
    source = read_estimator(pickle.loads(pickle.dumps(model)))
    assert source.format == library.__name__
    assert take(source, "binary", table().rows).parity <= MAX_PARITY


@pytest.mark.parametrize("zip_map", [True, False])
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_onnx_of_one_tensor_has_its_own_scores(kind: TaskKind, zip_map: bool) -> None:
    rows, labels = table()
    rows = rows.select(NUMBERS).fill_null(0.0)
    content, model = numeric_onnx(labels[kind], rows, zip_map)
    taken = take(OnnxSource(content), kind, rows, **dict.fromkeys(NUMBERS, "number"))
    expected = model.predict_proba(rows.to_numpy())
    expected = expected[:, 1] if kind == "binary" else expected
    assert np.abs(served(taken, rows) - expected).max() < MAX_PARITY
    if kind == "multiclass":
        assert taken.task.classes == CLASSES


def test_columns_may_come_in_another_order_and_beside_others() -> None:
    rows, labels = table()
    source = read_estimator(pipeline(LogisticRegression(), labels["binary"], rows))
    names: tuple[InputKind, ...] = ("number", "category")
    columns = tuple(
        Column(name=n, kind=k) for n, k in (("city", names[1]), ("price", names[0]), ("x", names[1]), ("age", names[0]))
    )
    given = rows.with_columns(pl.lit("a").alias("x"))
    taken = convert(source, columns, given, Task(kind="binary", label="y"))
    assert taken.parity <= MAX_PARITY
    assert np.array_equal(served(taken, given), served(take(source, "binary", rows), rows))


def graph(*outputs: tuple[str, int], nodes: list[onnx.NodeProto], inputs: Any = None) -> bytes:
    """A graph of the two numbers "x"."""
    inputs = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])]
    infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs]
    made = helper.make_graph(nodes, "g", inputs, infos)
    opsets = [helper.make_opsetid("", 11)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())


SUM = helper.make_node("ReduceSum", ["x"], ["s"], axes=[1], keepdims=1)
CAST = helper.make_node("Cast", ["s"], ["label"], to=TensorProto.INT64)
SIGMOID = helper.make_node("Sigmoid", ["s"], ["p"])
PICTURE = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 8])]
ONE_ROW = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no graph", "data.import_unreadable"),
        (graph(("label", TensorProto.INT64), nodes=[SUM, CAST]), "data.import_no_scores"),
        (graph(("s", TensorProto.FLOAT), ("p", TensorProto.FLOAT), nodes=[SUM, SIGMOID]), "data.import_output"),
        (graph(("s", TensorProto.FLOAT), nodes=[SUM], inputs=PICTURE), "data.import_input"),
        (graph(("s", TensorProto.FLOAT), nodes=[SUM], inputs=ONE_ROW), "data.import_input"),
    ],
)
def test_graph_that_cannot_be_served_is_refused(content: bytes, code: str) -> None:
    with raises(DataError, code):
        OnnxSource(content)


def test_output_that_is_named_is_taken() -> None:
    content = graph(("s", TensorProto.FLOAT), ("p", TensorProto.FLOAT), nodes=[SUM, SIGMOID])
    rows = table().rows.select(NUMBERS).fill_null(0.0)
    present: dict[str, InputKind] = {"age": "number", "price": "number"}
    source, columns = match_columns(OnnxSource(content, "p"), present, list(present))
    assert convert(source, columns, rows, Task(kind="binary", label="y")).parity <= MAX_PARITY
    source, columns = match_columns(OnnxSource(content, "s"), present, list(present))
    with raises(DataError, "data.import_not_scores", kind="binary"):
        convert(source, columns, rows, Task(kind="binary", label="y"))
    with raises(DataError, "data.import_not_scores", kind="multiclass"):
        convert(source, columns, rows, Task(kind="multiclass", label="y", classes=CLASSES))
    assert convert(source, columns, rows, Task(kind="regression", label="y")).parity <= MAX_PARITY


def test_rows_that_do_not_have_the_columns_are_refused() -> None:
    source = read_lightgbm(fit_trees(lightgbm, "binary").booster_.model_to_string().encode())
    with raises(DataError, "data.import_columns", missing=["city"]):
        match_columns(source, {"age": "number", "price": "number"}, ["age", "price"])
    with raises(DataError, "data.import_input", name="price"):
        match_columns(source, PRESENT | {"price": "category"}, list(PRESENT))
    unnamed = OnnxSource(graph(("s", TensorProto.FLOAT), nodes=[SUM]))
    with raises(DataError, "data.import_width", inputs=2, columns=3):
        match_columns(unnamed, PRESENT, list(PRESENT))


def test_graph_with_other_scores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table().rows
    source = read_lightgbm(fit_trees(lightgbm, "binary").booster_.model_to_string().encode())
    source, columns = match_columns(source, PRESENT, list(PRESENT))
    other = source.outputs(rows)
    other[5:8] += 1e-4
    monkeypatch.setattr(type(source), "outputs", lambda self, rows: other)
    with raises(DataError, "data.import_parity", wrong=3):
        convert(source, columns, rows, Task(kind="binary", label="y"))


def test_objective_without_a_graph_is_refused() -> None:
    rows, labels = table()
    model = lightgbm.LGBMRegressor(objective="poisson", n_estimators=3, verbose=-1)
    model.fit(data_frame(rows), labels["regression"].clip(0))
    with raises(DataError, "data.tree_unsupported"):
        read_lightgbm(model.booster_.model_to_string().encode())
    forest = xgboost.XGBRegressor(objective="reg:gamma", n_estimators=3, enable_categorical=True)
    forest.fit(data_frame(rows), labels["regression"].clip(1))
    with raises(DataError, "data.tree_unsupported"):
        read_xgboost(bytes(forest.get_booster().save_raw("json")))


def test_estimator_without_probabilities_is_refused() -> None:
    rows, labels = table()
    with raises(DataError, "data.import_no_scores"):
        read_estimator(pipeline(LinearSVC(), labels["binary"], rows))


class Payload:
    """What a pickle may hold: code."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


def test_code_runs_only_when_it_is_trusted(tmp_path: Path) -> None:
    touched, file = tmp_path / "touched", tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(Payload(touched)))
    with raises(DataError, "data.import_pickle"):
        read_model(find_model(file))
    assert not touched.exists()
    with raises(DataError, "data.import_no_scores"):
        read_model(find_model(file), trust=True)
    assert touched.exists()


def scale(values: Any) -> Any:
    """A function of a user, as a skops file may name one."""
    return values


def test_skops_is_loaded_without_trust_unless_it_names_other_code(tmp_path: Path) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from skops import io

    rows, labels = table()
    safe = io.dumps(pipeline(LogisticRegression(), labels["binary"], rows))
    assert take(read_estimator(load_skops(safe, trust=False)), "binary", rows).parity <= MAX_PARITY
    numbers = rows.select(NUMBERS).fill_null(0.0).to_numpy()
    other = make_pipeline(FunctionTransformer(scale), LogisticRegression()).fit(numbers, labels["binary"])
    with raises(DataError, "data.import_untrusted") as caught:
        load_skops(io.dumps(other), trust=False)
    assert any("scale" in name for name in caught.value.fields["types"])


def test_mlflow_folder_names_file_format_and_columns(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: mlflow.lightgbm\n  lightgbm:\n    data: model.lgb\n"
        """signature:\n  inputs: '[{"type": "double", "name": "a"}, {"type": "double", "name": "b"}]'\n"""
    )
    (tmp_path / "model.lgb").write_text("tree")
    assert find_model(tmp_path) == ModelFile(tmp_path / "model.lgb", "lightgbm", ("a", "b"))
    with raises(DataError, "data.import_format"):
        find_model(tmp_path / "MLmodel")
