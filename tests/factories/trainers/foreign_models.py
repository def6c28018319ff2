"""Small models as other tools train and save them, and the rows that they take."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROWS = 600
NUMBERS = ("age", "price")


class Table(NamedTuple):
    """Rows with numbers, a category and missing values, and their outcomes by task."""

    rows: pl.DataFrame
    labels: dict[str, np.ndarray]


def table() -> Table:
    """Return 600 rows; every 7th lacks the age, every 11th the city."""
    rng = np.random.default_rng(3)
    age, price = rng.normal(40, 10, ROWS), rng.exponential(30, ROWS)
    city = rng.choice(["rome", "oslo", "x y"], ROWS)
    noise = rng.normal(0, 0.5, ROWS)
    labels = {
        "binary": ((city == "rome") * 1.5 + price / 30 + noise > 1.2).astype(int),
        "multiclass": np.array(["low", "mid", "top"])[np.digitize(price + 5 * noise, [12, 35])],
        "regression": price * 2 + age / 5 + noise,
    }
    numbers = np.arange(ROWS)
    rows = pl.DataFrame({"age": age, "city": city, "price": price}).with_columns(
        age=pl.when(pl.Series(numbers % 7 != 0)).then("age"), city=pl.when(pl.Series(numbers % 11 != 0)).then("city")
    )
    return Table(rows, labels)


def data_frame(rows: pl.DataFrame) -> Any:
    """Return rows as pandas has them, with the city as a category."""
    frame = rows.to_pandas()
    return frame.assign(city=frame["city"].astype("category"))


def pipeline(estimator: Any, labels: np.ndarray, rows: pl.DataFrame) -> Any:
    """Return a fitted pipeline that imputes, scales and encodes the columns of the table."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    texts = make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    )
    columns = ColumnTransformer([("numbers", numbers, list(NUMBERS)), ("texts", texts, ["city"])])
    frame = rows.to_pandas()
    frame["city"] = frame["city"].astype(object).where(frame["city"].notna(), np.nan)
    with warnings.catch_warnings(action="ignore"):
        return make_pipeline(columns, estimator).fit(frame, labels)


def numeric_onnx(labels: np.ndarray, rows: pl.DataFrame, zip_map: bool) -> tuple[bytes, Any]:
    """Return a graph of one tensor, and the classifier of the numbers of ``rows`` that it is of."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    values = rows.select(NUMBERS).fill_null(0.0).to_numpy()
    with warnings.catch_warnings(action="ignore"):
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(values, labels)
        graph = to_onnx(model, values[:1].astype(np.float32), options={"zipmap": zip_map}, target_opset=15)
    return graph.SerializeToString(), model
