"""Content hashes, fingerprints, splits and ids: the same input has the same value in every version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.webhooks import SIGNATURE_HEADER, sign
from deployments.auth.credentials import ID_BYTES, SECRET_BYTES, format_key, hash_key
from deployments.telemetry.prediction_log import batch_id, batch_replica, row_ids
from deployments.traffic_split import find_slice, hash_position, slice_start
from features.builders import derive, rolling
from features.definitions import FeatureSet
from features.encoder import Encoder
from features.sources.erasure_registry import entity_digest
from features.sources.pseudonyms import PseudonymKey
from features.split import HashSplit, TimeSplit
from monitoring.samples.bottom_k_sample import BottomKSample
from tests.factories.golden import samples
from tests.factories.golden.files import golden

KEYS = [f"key-{i}" for i in range(200)]


def test_hashes_of_feature_sets_and_views_are_unchanged() -> None:
    golden(
        "hashes",
        {
            "trips": samples.TRIPS.content_hash,
            "flights": samples.FLIGHTS.content_hash,
            "images": samples.IMAGES.content_hash,
            "view": samples.VIEW.content_hash,
            "pair": samples.PAIR.content_hash,
            "as declared": FeatureSet(
                name="set",
                request=samples.REQUEST,
                derived=(derive("twice", pl.col("distance") * 2.0),),
            ).content_hash,
        },
    )


def test_hash_ignores_names_owners_and_descriptions() -> None:
    view = samples.VIEW.model_copy(update={"owner": "me", "description": "else"})
    renamed = samples.FLIGHTS.model_copy(update={"name": "other", "views": (view,)})
    assert renamed.content_hash == samples.FLIGHTS.content_hash
    other = samples.VIEW.model_copy(update={"aggregates": rolling("delay", timedelta(hours=1), "d")})
    assert other.content_hash != samples.VIEW.content_hash


def test_encoded_rows_are_unchanged() -> None:
    encoder = Encoder(columns=(*samples.TRIPS.columns, *samples.IMAGES.columns), vocabularies={"carrier": ("AA", "UA")})
    few = encoder.encode(samples.rows())
    many = encoder.encode(pa.concat_tables([samples.rows()] * 50))
    for arrays in (few, {name: values[:6] for name, values in many.items()}):
        golden(
            "encoded",
            {
                "numbers": [[str(value) for value in row] for row in arrays["numbers"].tolist()],
                "codes": arrays["codes"].tolist(),
                "types": {name: str(values.dtype) for name, values in arrays.items()},
            },
        )
    fitted = Encoder.fit(samples.TRIPS.columns, samples.rows(), min_count=1)
    assert fitted.vocabularies == {"carrier": ("AA", "UA", "ZZ")}


def test_split_by_hash_and_by_time_is_unchanged() -> None:
    ids = pl.DataFrame({"id": KEYS})
    parts = ids.select(HashSplit(validation=0.2, test=0.3).split_expr().alias("split")).get_column("split").to_list()
    moments = [datetime(2024, month, 1, tzinfo=UTC) for month in range(1, 13)]
    split = TimeSplit(start=moments[1], validate_from=moments[4], test_from=moments[7], end=moments[10])
    instants = pl.Series(moments, dtype=pl.Datetime("us", "UTC"))
    times = pl.DataFrame({"as_of": instants, "label_known_at": instants})
    golden(
        "split",
        {
            "hash": "".join(part[0] for part in parts),
            "time": times.select(split.split_expr().alias("split")).get_column("split").to_list(),
        },
    )


def _assigned(salt: str, share: float, starts: tuple[float, ...]) -> str:
    """A character for each key: the number of its challenger, or - for the champion."""
    indexes = [find_slice(salt, key, share, starts) for key in KEYS]
    return "".join("-" if index is None else str(index) for index in indexes)


def test_challenger_keys_are_unchanged() -> None:
    starts = tuple(slice_start(i, 3) for i in range(3))
    golden(
        "traffic_split",
        {
            "positions": [hash_position("rollout", key) for key in KEYS[:10]],
            "one": _assigned("rollout", 0.25, (0.0,)),
            "three": _assigned("other", 0.2, starts),
        },
    )


def test_ids_of_rows_batches_keys_and_entities_are_unchanged() -> None:
    id, text = format_key(bytes(range(ID_BYTES)), bytes(range(SECRET_BYTES)))
    names = PseudonymKey(b"k" * 32)
    entity = {"passenger": "anna", "carrier": "AA"}
    assert batch_replica(batch_id("replica", 7)) == "replica"
    golden(
        "ids",
        {
            "batch": batch_id("replica", 7),
            "rows": row_ids(["a", "b"], [1, 2]).to_pylist(),
            "key": [id, text, hash_key(text).hex()],
            "signature": {SIGNATURE_HEADER: sign("secret", b"body")},
            "token": names.token("anna"),
            "forgotten": [entity_digest(entity, None), entity_digest(entity, names)],
        },
    )


def test_sampled_rows_are_unchanged() -> None:
    table = pa.table({"id": KEYS, "n": np.arange(len(KEYS))})
    sample = BottomKSample(10, table.schema)
    sample.update(table, table["id"])
    golden("sampled", sorted(sample.rows["n"].to_pylist()))
