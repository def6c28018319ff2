"""Where encoded arrays hold the features of a model."""

from __future__ import annotations

from features.attributions.contributions import FeatureLocation, feature_locations, feature_of_columns
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, frame


def test_feature_locations_match_encoder() -> None:
    locations = feature_locations(Encoder.fit(COLUMNS, frame(rows=20)))
    assert locations == {
        "plain": FeatureLocation("numbers", slice(0, 1)),
        "heavy": FeatureLocation("numbers", slice(1, 2)),
        "gappy": FeatureLocation("numbers", slice(2, 3)),
        "pixels": FeatureLocation("numbers", slice(3, 7)),
        "color": FeatureLocation("codes", slice(0, 1)),
    }
    assert feature_of_columns(locations).tolist() == [0, 1, 2, 3, 3, 3, 3, 4]
