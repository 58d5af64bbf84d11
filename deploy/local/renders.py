"""Everything under deploy/k8s as kustomize renders it: each overlay, and the base with each component,
and `production` with both operators.

Promises: the tree is copied first, with secrets that `secrets.sh` makes there, so that nobody's own secrets
are read, and nothing is written beside them.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from go_tools import tool

K8S = Path(__file__).resolve().parents[1] / "k8s"
REPLACES_INGRESSES = "gateway-api"

Document = dict[str, Any]


class NotRendered(Exception):
    """What kustomize refuses, in its words."""


def names(folder: str, source: Path = K8S) -> list[str]:
    return sorted(each.parent.name for each in (source / folder).glob("*/kustomization.yaml"))


def renders(source: Path = K8S) -> Iterator[tuple[str, list[Document]]]:
    """The name and the documents of each. Raises NotRendered."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "k8s")
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("secrets"))
        yield "base", build(copy / "base")
        for overlay in names("overlays", source):
            own = copy / "overlays" / overlay
            run([str(copy / "secrets.sh"), str(own)])
            yield overlay, build(own)
        if "production" in names("overlays", source):
            operators = ("mongodb-operator", "rabbitmq-operator")
            yield "with operators", with_components(copy, *operators, on="overlays/production")
        for component in names("components", source):
            yield component, with_components(copy, component)
        together = set(names("components", source)) - {REPLACES_INGRESSES}
        yield "all components", with_components(copy, *sorted(together))


def with_components(copy: Path, *components: str, on: str = "base") -> list[Document]:
    folder = Path(tempfile.mkdtemp(dir=copy))
    text = {
        "resources": [f"../{on}"],
        "components": [f"../components/{name}" for name in components],
        "namespace": "macromdm",
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return build(folder)


def build(folder: Path) -> list[Document]:
    return list(yaml.safe_load_all(run([str(tool("kustomize")), "build", str(folder)])))


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise NotRendered(f"{' '.join(command[-2:])}: {done.stderr.strip()}")
    return done.stdout
