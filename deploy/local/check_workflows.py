"""Are the GitHub workflows valid, and do they call nothing but targets of the Makefile? For `make check`."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from go_tools import NoTool, tool

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"


def target_faults(workflow: dict[str, Any], targets: set[str]) -> Iterator[str]:
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            command = step.get("run")
            called = (
                None
                if command is None
                else re.fullmatch(r"(?:sudo )?make (\w+)( [^;&|`<>]*)?", command)
            )
            if command is not None and (called is None or called[1] not in targets):
                yield f"{name}: `{command}` is no target of the Makefile"


def faults() -> Iterator[str]:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in sorted(WORKFLOWS.glob("*.yml")):
        found = target_faults(yaml.safe_load(path.read_text()), targets)
        yield from (f"{path.name}: {fault}" for fault in found)
        try:
            command = [str(tool("actionlint")), "-shellcheck=", "-pyflakes=", str(path)]
        except NoTool as exc:
            yield str(exc)
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            yield (done.stdout or done.stderr).strip()


def main() -> int:
    found = list(faults())
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
