"""Write deploy/image/*.lock: every package of the image with its exact version and hashes, for all platforms.

`python deploy/local/lock.py` asks PyPI and keeps the locked versions that still fit; `--upgrade` takes the
newest. `--check` asks nobody: the locks have what pyproject.toml asks for, and each package has a hash.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "image"
PYTHON = "3.11"
"""The oldest version that the locks are for, and the image's."""
_PACKAGE = re.compile(
    r"^([\w.-]+)==([\w.!+]+)([^\n\\]*)((?:\\?\n {4}--hash=sha256:[0-9a-f]{64} ?)*)", re.MULTILINE
)


def wanted() -> dict[str, list[str]]:
    """Of each lock, what pyproject.toml asks for: to run, and to build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {
        "requirements.lock": project["project"]["dependencies"],
        "build.lock": project["build-system"]["requires"],
    }


def write(name: str, requirements: list[str], arguments: list[str]) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--python-version", PYTHON]
    command += ["--output-file", str(FOLDER / name), *arguments, "-"]
    subprocess.run(command, input="\n".join(requirements), text=True, check=True)


def faults(text: str, requirements: list[str]) -> Iterator[str]:
    """What is wrong with a lock."""
    locked = {
        canonicalize_name(name): (version, hashes)
        for name, version, _, hashes in _PACKAGE.findall(text)
    }
    if len(locked) != len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) or not locked:
        yield "is no lock"
    for each in map(Requirement, requirements):
        version, _ = locked.get(canonicalize_name(each.name), ("", ""))
        if not each.specifier.contains(version or "0", prereleases=True):
            yield f"has {each.name} {version or 'not at all'}, and pyproject.toml asks for {each.specifier}"
    for name, (_, hashes) in locked.items():
        if "sha256:" not in hashes:
            yield f"{name} has no hash"


def main(arguments: list[str]) -> int:
    found = []
    for name, requirements in wanted().items():
        if "--check" not in arguments:
            write(name, requirements, arguments)
        text = (FOLDER / name).read_text()
        found += [f"deploy/image/{name}: {fault}" for fault in faults(text, requirements)]
    print("\n".join(found))
    if found:
        print("run `make lock`")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
