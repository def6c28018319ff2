"""Settings that differ from those of the running deployments, and the champion that a rollback restores."""

from pathlib import Path

import pytest

from cluster.errors import SettingsError
from cluster.settings import Settings
from cluster.values import Decision
from rayloop.stages.deploy import ACCESS_VARIABLES, STORE_VARIABLES, check_settings, predecessor
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


def test_predecessor_is_the_version_that_was_replaced() -> None:
    def promoted(version: str, champion: str, action: str = "promote") -> Decision:
        return Decision(
            rollout="r", at=0.0, action=action, share=1.0, reason="", champion=champion, challengers=(version,)
        )

    decisions = [promoted("2", "1"), promoted("3", "2", "abort"), promoted("4", "2")]
    assert predecessor(decisions, "4") == "2"
    assert predecessor(decisions, "3") is None
    assert predecessor(decisions, "1") is None
