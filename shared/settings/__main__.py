"""`python -m shared.settings [--check] [FILE]`: write docs/settings.md, or say whether it is current."""

import sys
from collections.abc import Sequence
from pathlib import Path

from shared.settings.table import table

DEFAULT = Path("docs/settings.md")


def main(arguments: Sequence[str]) -> int:
    checks = "--check" in arguments
    paths = [Path(each) for each in arguments if not each.startswith("-")]
    path = paths[0] if paths else DEFAULT
    if not checks:
        path.write_text(table(), encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == table():
        return 0
    sys.stderr.write(f"{path} is not current: run `python -m shared.settings`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
