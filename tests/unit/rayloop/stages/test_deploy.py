"""Differences between the settings of a process and those of the running deployments."""

from pathlib import Path

import pytest

from cluster.errors import SettingsError
from cluster.settings import Settings
from rayloop.stages.deploy import ACCESS_VARIABLES, STORE_VARIABLES, check_settings
from tests.factories.errors import raises


def test_check_settings_with_other_access_settings_is_refused(settings: Settings) -> None:
    check_settings(settings, settings, ACCESS_VARIABLES)
    guarded = settings.model_copy(update={"access": True})
    check_settings(guarded, settings, STORE_VARIABLES)
    with raises(SettingsError, "settings.differ", variable="RAYLOOP_ACCESS"):
        check_settings(guarded, settings, ACCESS_VARIABLES)


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"home": Path("/elsewhere"), "online_store": ""}, "RAYLOOP_ONLINE_STORE"),
        ({"online_store": "redis://other:6379/0"}, "RAYLOOP_ONLINE_STORE"),
        ({"personal_key_file": "/other/key"}, "RAYLOOP_PERSONAL_KEY_FILE"),
    ],
)
def test_check_settings_with_another_store_or_key_is_refused(
    settings: Settings, change: dict[str, object], variable: str
) -> None:
    check_settings(settings, settings, STORE_VARIABLES)
    with raises(SettingsError, "settings.differ", variable=variable):
        check_settings(settings.model_copy(update=change), settings, STORE_VARIABLES)
