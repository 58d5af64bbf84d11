"""Files that scripts write: written, or compared with what they should be."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def below(page: Path, mark: str, text: str) -> str:
    """The page with this text below the mark; what stands above it is written by hand."""
    return page.read_text(encoding="utf-8").partition(mark)[0] + mark + text


def within(page: Path, name: str, text: str) -> str:
    """The page with this text between its two marks of this name; the rest is written by hand. ValueError
    where the page has no such marks."""
    written = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin", f"<!-- {name}: end -->\n"
    before, mark, rest = written.partition(begin)
    line, _, rest = rest.partition("\n")
    _, closing, after = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"{page.name} has no marks for {name}")
    return f"{before}{mark}{line}\n{text}{closing}{after}"


def write_or_check(files: Mapping[Path, str], arguments: Sequence[str], script: str) -> int:
    """Write the files; with `--check` name those that are not current instead. The exit code."""
    if "--check" not in arguments:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return 0
    old = [file.name for file, text in files.items() if file.read_text(encoding="utf-8") != text]
    if not old:
        return 0
    sys.stderr.write(f"{', '.join(old)}: not current, run `python deploy/local/{script}`\n")
    return 1
