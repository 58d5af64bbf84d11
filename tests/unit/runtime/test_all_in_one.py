"""What `python -m services all` makes and says at its start."""

from pathlib import Path

import pytest

from services.runtime.all_in_one import greeting, with_api_key
from services.runtime.key_files import API_KEY_FILE
from shared.domain.errors import Misconfigured
from shared.settings import AllSettings
from shared.settings.values import without_credentials


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path):
    settings = with_api_key(AllSettings(data_dir=tmp_path / "data"))

    file = tmp_path / "data" / API_KEY_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() == settings.api_keys[0].get_secret_value()
    assert len(file.read_text().strip()) == 64
    assert [each.name for each in file.parent.iterdir()] == [API_KEY_FILE]


def test_a_second_start_keeps_the_key(tmp_path: Path):
    first = with_api_key(AllSettings(data_dir=tmp_path))

    assert with_api_key(AllSettings(data_dir=tmp_path)).api_key == first.api_key


def test_a_key_that_is_given_is_not_kept(tmp_path: Path):
    with_api_key(AllSettings(data_dir=tmp_path, api_key="a-key-that-is-long-enough"))

    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(Misconfigured, match="MDM_DATA_DIR"):
        with_api_key(AllSettings(data_dir=tmp_path / "file"))


def test_an_empty_key_file_is_refused(tmp_path: Path):
    (tmp_path / API_KEY_FILE).write_text("\n")

    with pytest.raises(Misconfigured, match=API_KEY_FILE):
        with_api_key(AllSettings(data_dir=tmp_path))


def test_the_key_itself_is_shown_only_on_a_terminal(tmp_path: Path):
    settings = with_api_key(AllSettings(data_dir=tmp_path))
    key = settings.api_keys[0].get_secret_value()

    logged = "\n".join(greeting(settings, webhooks=0, key_is_kept=True, shows_key=False))
    shown = "\n".join(greeting(settings, webhooks=0, key_is_kept=True, shows_key=True))

    assert key not in logged
    assert key in shown
    assert str(tmp_path / API_KEY_FILE) in logged


def test_a_key_that_is_given_is_never_shown(tmp_path: Path):
    settings = AllSettings(data_dir=tmp_path, api_key="a-key-that-is-long-enough")

    assert "long-enough" not in "\n".join(
        greeting(settings, webhooks=0, key_is_kept=False, shows_key=True)
    )


def test_the_webhook_is_shown_without_credentials(tmp_path: Path):
    settings = AllSettings(
        data_dir=tmp_path,
        api_key="a-key-that-is-long-enough",
        webhook_url="https://user:hunter2@hook.test:444/in?token=hunter2",
    )

    said = "\n".join(greeting(settings, webhooks=0, key_is_kept=False, shows_key=False))

    assert "https://hook.test:444/in" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("url", "webhooks", "said"),
    [
        (None, 0, "nowhere yet: make a webhook by POST /v1/webhooks, or set MDM_WEBHOOK_URL"),
        (None, 1, "1 webhook made by POST /v1/webhooks"),
        (None, None, "the webhooks made by POST /v1/webhooks"),
        ("https://h/", 0, "https://h/"),
        ("https://h/", 2, "https://h/, and to 2 webhooks made by POST /v1/webhooks"),
    ],
)
def test_it_says_where_events_go(
    tmp_path: Path, url: str | None, webhooks: int | None, said: str
) -> None:
    settings = with_api_key(AllSettings(data_dir=tmp_path, webhook_url=url))

    lines = greeting(settings, webhooks=webhooks, key_is_kept=True, shows_key=False)

    assert f"Events go to         {said}" in lines


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/p", "https://h/p"),
        ("https://u@h/p#f", "https://h/p"),
        ("https://u:p@h:1/p?q=1", "https://h:1/p?..."),
        ("https://u:p%40w@[::1]:1", "https://[::1]:1"),
    ],
)
def test_urls_are_shown_without_what_may_be_secret(url: str, shown: str):
    assert without_credentials(url) == shown
