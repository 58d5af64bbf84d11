"""What kustomize renders, as processes: settings and secrets of a pod."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

Document = dict[str, Any]


@contextmanager
def local_modules() -> Iterator[None]:
    """Modules of deploy/local can be imported."""
    local = str(ROOT / "deploy" / "local")
    sys.path.insert(0, local)
    try:
        yield
    finally:
        sys.path.remove(local)


def workload(documents: list[Document], name: str) -> Document:
    kinds = ("Deployment", "Job")
    [found] = [
        d for d in documents if d["kind"] in kinds and d["metadata"]["name"] == f"macromdm-{name}"
    ]
    return found


class Mounts:
    """The secrets of each pod as files; MongoDB and RabbitMQ are those of the tests."""

    def __init__(self, folder: Path, documents: list[Document]) -> None:
        self._folder, self._documents = folder, documents
        self.urls: dict[str, str] = {}

    def environment(self, name: str) -> dict[str, str]:
        with local_modules():
            settings = importlib.import_module("manifest_settings")
        found = workload(self._documents, name)
        environ: dict[str, str] = settings.given(self._documents, found)
        for path, (secret, key) in settings.mounted(found).items():
            setting = Path(path).name
            content = settings.secret_content(self._documents, secret, key)
            file = self._folder / name / setting
            file.parent.mkdir(exist_ok=True)
            file.write_text(self.urls.get(setting, content))
            environ = {k: str(file) if v == path else v for k, v in environ.items()}
        return environ
