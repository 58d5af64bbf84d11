"""MDM_SECRET_KEY: what it may be, who must have one, and the one that is made without it."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from services.runtime.key_files import SECRET_KEY_FILE, keyring_of
from shared.domain.errors import Misconfigured
from shared.security.encryption import key_id
from shared.settings import AllSettings, CheckinSettings, ServiceSettings, load, warnings_about

FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))
ONE, TWO = base64.b64encode(FIRST).decode(), base64.b64encode(SECOND).decode()
MONGODB = {"MDM_MONGODB_URL": "mongodb://db/x"}
SERVERS = MONGODB | {"MDM_AMQP_URL": "amqp://mq/"}


def keys_of(text: str) -> tuple[tuple[bytes, ...], bool]:
    return load(AllSettings, {"MDM_SECRET_KEY": text}).secret_keys


def refusal(cls: type[ServiceSettings], environ: dict[str, str]) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(cls, environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "keys", "encrypts"),
    [
        (ONE, (FIRST,), True),
        (f"{ONE},{TWO}", (FIRST, SECOND), True),
        (f" {TWO} ,\n{ONE}\n", (SECOND, FIRST), True),
        (f"clear,{ONE}", (FIRST,), False),
        (base64.urlsafe_b64encode(b"\xfb" * 32).decode(), (b"\xfb" * 32,), True),
    ],
)
def test_keys_are_base64_the_first_one_encrypts(
    text: str, keys: tuple[bytes, ...], encrypts: bool
) -> None:
    assert keys_of(text) == (keys, encrypts)


@pytest.mark.parametrize("cls", [AllSettings, CheckinSettings])
def test_a_mongodb_without_a_key_is_refused_with_the_command_that_makes_one(
    cls: type[ServiceSettings],
) -> None:
    message = refusal(cls, SERVERS)

    assert message.startswith("MDM_SECRET_KEY: is not set")
    assert "openssl rand -base64 32" in message


@pytest.mark.parametrize(
    "text",
    [
        "change-me",
        f"change-me,{ONE}",
        "secret-secret",
        base64.b64encode(b"\0" * 31).decode(),
        base64.b64encode(b"\0" * 33).decode(),
        ONE[:-2],
        f"{ONE},{ONE}x",
        f"{ONE},clear",
        "clear",
        ",",
        "ü",
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    message = refusal(AllSettings, MONGODB | {"MDM_SECRET_KEY": text})

    assert message.startswith("MDM_SECRET_KEY: ")
    assert "openssl rand -base64 32" in message
    assert ONE not in message
    assert "secret-secret" not in message


def test_the_key_can_stand_in_a_mounted_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{ONE}\n{TWO}\n")

    settings = load(CheckinSettings, SERVERS | {"MDM_SECRET_KEY_FILE": str(file)})

    assert settings.secret_keys == ((FIRST, SECOND), True)
    assert ONE not in repr(settings)


def test_clear_in_front_of_the_keys_gives_a_warning() -> None:
    environ = SERVERS | {"MDM_SECRET_KEY": f"clear,{ONE}", "MDM_SERVER_URL": "https://mdm"}

    [warning] = warnings_about(load(CheckinSettings, environ), environ)

    assert warning.startswith("MDM_SECRET_KEY: ")


def test_the_sealer_has_the_keys_of_the_setting(tmp_path: Path) -> None:
    settings = AllSettings.model_validate({"data_dir": tmp_path, "secret_key": f"{ONE},{TWO}"})

    keyring = keyring_of(settings)

    assert keyring.current == key_id(FIRST)
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_store_gets_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    settings = AllSettings.model_validate({"data_dir": tmp_path / "data"})

    first, again = keyring_of(settings), keyring_of(settings)

    file = tmp_path / "data" / SECRET_KEY_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in file.parent.iterdir()] == [SECRET_KEY_FILE]
    assert again.decrypt(first.encrypt(b"a secret", "x"), "x") == b"a secret"


@pytest.mark.parametrize("content", ["\n", "no key\n"])
def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / SECRET_KEY_FILE).write_text(content)

    with pytest.raises(Misconfigured, match=f"MDM_SECRET_KEY: .*{SECRET_KEY_FILE}"):
        keyring_of(AllSettings.model_validate({"data_dir": tmp_path}))


def test_all_who_make_it_at_once_have_the_same_key(tmp_path: Path) -> None:
    program = (
        "import sys; from services.runtime.key_files import keyring_of;"
        "from shared.settings import AllSettings;"
        "sys.stdin.read();"
        "print(keyring_of(AllSettings.model_validate({'data_dir': sys.argv[1]})).current)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:  # all are loaded before the first one goes on
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None

    said = {process.communicate(timeout=60)[0] for process in processes}

    assert len(said) == 1
    assert [each.name for each in tmp_path.iterdir()] == [SECRET_KEY_FILE]
