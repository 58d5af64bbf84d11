"""MDM_SCEP_...: what an operator may say of SCEP."""

from datetime import timedelta

import pytest

from shared.domain.errors import Misconfigured
from shared.settings import AllSettings
from shared.settings.load import load


def test_nothing_needs_to_be_said() -> None:
    settings = load(AllSettings, {})

    assert settings.scep_challenge is None
    assert settings.scep_challenge_validity == timedelta(hours=1)
    assert settings.scep_validity == timedelta(days=365)
    assert settings.scep_legacy


def test_what_is_said_is_taken_and_the_challenge_does_not_show() -> None:
    settings = load(
        AllSettings,
        {
            "MDM_SCEP_CHALLENGE": "let us in",
            "MDM_SCEP_CHALLENGE_VALIDITY": "5 min",
            "MDM_SCEP_VALIDITY": "30 d",
            "MDM_SCEP_LEGACY": "false",
        },
    )

    assert settings.scep_challenge is not None
    assert settings.scep_challenge.get_secret_value() == "let us in"
    assert settings.scep_challenge_validity == timedelta(minutes=5)
    assert settings.scep_validity == timedelta(days=30)
    assert not settings.scep_legacy
    assert "let us in" not in repr(settings)


def test_an_empty_challenge_is_none() -> None:
    assert load(AllSettings, {"MDM_SCEP_CHALLENGE": ""}).scep_challenge is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MDM_SCEP_CHALLENGE", "x" * 256),
        ("MDM_SCEP_CHALLENGE", "two\nlines"),
        ("MDM_SCEP_CHALLENGE_VALIDITY", "10 s"),
        ("MDM_SCEP_VALIDITY", "4000 d"),
        ("MDM_SCEP_VALIDITY", "0"),
        ("MDM_SCEP_LEGACY", "perhaps"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=name):
        load(AllSettings, {name: value})
