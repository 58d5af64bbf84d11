"""Keys that are made on the first start and kept in the data folder: the API key, the secret key.

Promise: one file, readable by its owner only from its first byte on, whole or not there; the first
process makes it, and all others get the same.
"""

import base64
import contextlib
import os
import secrets
from pathlib import Path

from shared.domain.errors import Misconfigured
from shared.security.encryption import KEY_SIZE, AesKeyring
from shared.settings import ServiceSettings
from shared.settings.encryption import secret_keys

API_KEY_FILE = "api-key"
SECRET_KEY_FILE = "secret-key"


def kept_key(folder: Path, name: str, fresh: str, variable: str) -> str:
    """The content of the file; `fresh` if there is none yet. Misconfigured for an empty file, and for
    a folder that cannot be used."""
    path = folder / name
    try:
        key = _read_or_made(path, fresh)
    except OSError as exc:
        raise Misconfigured(f"MDM_DATA_DIR: cannot use {folder}: {exc.strerror}") from None
    if not key:
        raise Misconfigured(f"{variable}: {path} is empty; remove it, and a key is made")
    return key


def _read_or_made(path: Path, fresh: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        return path.read_text().strip()
    # Whole or not at all, never readable by others, and never in the place of another's.
    # Containers that share a folder may have the same process id.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(fresh + "\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    make_durable(path.parent)
    return path.read_text().strip()


def make_durable(folder: Path) -> None:
    """A key whose name is lost with the power takes along all that was encrypted with it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def keyring_of(settings: ServiceSettings) -> AesKeyring:
    """The keyring of MDM_SECRET_KEY; with the embedded store that of the key in the data folder, which
    is made where there is none. Misconfigured where that cannot be used."""
    keys, encrypts = settings.secret_keys
    if not keys:
        fresh = base64.b64encode(secrets.token_bytes(KEY_SIZE)).decode()
        kept = kept_key(settings.data_dir, SECRET_KEY_FILE, fresh, "MDM_SECRET_KEY")
        try:
            keys, encrypts = secret_keys(kept)
        except ValueError as exc:
            where = settings.data_dir / SECRET_KEY_FILE
            raise Misconfigured(f"MDM_SECRET_KEY: {where}: {exc}") from None
    return AesKeyring(keys, encrypts=encrypts)
