"""Tasks and feature sets of the bundles, for tests that need no model: nothing here imports torch or MLflow."""

from __future__ import annotations

import polars as pl

from cluster.values import Task
from features.builders import derive
from features.definitions import Column, FeatureSet
from features.encoder import Encoder

BINARY = Task(kind="binary", label="late")
CLASSES = ("ash", "birch", "cedar")
MULTICLASS = Task(kind="multiclass", label="tree", classes=CLASSES)

FEATURES = FeatureSet(
    name="trips",
    request=(
        Column(name="distance", kind="number"),
        Column(name="carrier", kind="category"),
        Column(name="departs", kind="timestamp"),
    ),
    derived=(derive("hour", pl.col("departs").dt.hour().cast(pl.Float64)),),
    as_of=derive("as_of", pl.col("departs") - pl.duration(hours=2), kind="timestamp"),
)
ENCODER = Encoder(columns=FEATURES.columns, vocabularies={"carrier": ("AA", "UA")})

IMAGES = FeatureSet(name="images", request=(Column(name="pixels", kind="tensor", shape=(2, 3)),))
IMAGE_ENCODER = Encoder(columns=IMAGES.columns, vocabularies={})
