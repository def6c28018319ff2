"""Fingerprints depend on content, and never change."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cluster.fingerprint import json_fingerprint


def test_json_fingerprint_is_sha256_of_sorted_json() -> None:
    expected = "b7f18cc94007955947035e918765ff9cbffe7181bcdc804529da3fe9ee1e021d"
    assert json_fingerprint({"b": [1, 2.5, None], "a": "ü"}) == expected
    assert json_fingerprint({"a": "ü", "b": [1, 2.5, None]}) == expected


def test_json_fingerprint_of_value_without_json_form_needs_default() -> None:
    with pytest.raises(TypeError):
        json_fingerprint({"window": timedelta(1)})
    assert json_fingerprint({"window": timedelta(1)}, default=str) == json_fingerprint({"window": "1 day, 0:00:00"})
