"""Fails for a link to a file or a heading that does not exist, in any Markdown file of the project."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = listed.stdout.split() or [path.name for path in ROOT.glob("*.md")]
    return [ROOT / name for name in names]


def headings(path: Path) -> set[str]:
    titles = re.findall(r"^#+ +(.+?) *$", without_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def link_faults() -> Iterator[str]:
    for document in documents():
        for link in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text())):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            if not target.exists():
                yield f"{document.relative_to(ROOT)}: {link} does not exist"
            elif anchor and target.suffix == ".md" and anchor not in headings(target):
                yield f"{document.relative_to(ROOT)}: {link}: there is no such heading"


def main() -> int:
    faults = list(link_faults())
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
