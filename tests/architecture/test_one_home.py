"""One tool for each thing, and one home for each tool."""

import ast
import re
from collections import defaultdict

import pytest

from tests.architecture.sources import SOURCES, relative, tree_of

HOMES = {
    r"// 1000 \* 1000": {"shared/times.py"},
    r"\+00:00": {"shared/times.py", "services/push/certificates/schemas.py"},
    r"datetime\(1970, 1, 1": {"shared/times.py"},
    r"urlsafe_b64": {"shared/web/api/cursor.py"},
    r"for \w+ in range\(0, len\(": {
        "shared/chunks.py",
        # These need the position itself: of bytes, of what is left, of what an outcome belongs to.
        "shared/apple/plist/binary_form.py",
        "shared/messaging/frames.py",
    },
    # Its deadline is an hour, and a batch of it may hold the event loop: for commands, never for requests.
    r"\.scan\(": {
        "shared/storage/maintenance/copying.py",
        "shared/storage/maintenance/reencryption.py",
        "shared/storage/remote/server.py",
    },
    r"connection_tune": {"shared/messaging/rabbit/fast_channel.py"},
    r"set_protocol": {"shared/messaging/rabbit/connection.py"},
}
"""Patterns of code, and the only files that may have them."""

CONVENTIONS = frozenset({"build", "check", "router", "indexes", "main", "run", "add_arguments"})
"""Names that several modules define on purpose: a reader finds them by the module."""

MESSAGES = frozenset(
    {"Authenticate", "TokenUpdate", "CheckOut", "SetBootstrapToken", "GetBootstrapToken"}
    | {"UserAuthenticate", "Connect"}
)


@pytest.mark.parametrize("pattern", HOMES)
def test_each_tool_has_one_home(pattern: str) -> None:
    found = {relative(path) for path in SOURCES if re.search(pattern, path.read_text())}

    assert found == HOMES[pattern]


def test_a_public_name_is_defined_once() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        for node in tree_of(path).body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not node.name.startswith("_") and node.name not in CONVENTIONS:
                homes[node.name].add(relative(path))

    assert not {name for name, files in homes.items() if len(files) > 1}


def test_only_the_handlers_of_messages_tell_messages_apart() -> None:
    found = set()
    for path in SOURCES:
        name = relative(path)
        if name.startswith(("services/checkin/messages/", "shared/apple/messages/")):
            continue
        for node in ast.walk(tree_of(path)):
            asked: list[ast.AST] = []
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = [node.args[1]]
            elif isinstance(node, ast.MatchClass):
                asked = [node.cls]
            names = {n.id for each in asked for n in ast.walk(each) if isinstance(n, ast.Name)}
            if names & MESSAGES:
                found.add(f"{name}:{node.lineno}")

    assert not found


def test_times_of_modules_have_their_unit_in_the_type() -> None:
    """A number in code that is not exact is nearly always a time in seconds."""
    found = {
        relative(path)
        for path in SOURCES
        for node in tree_of(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, float)
    }

    assert not found
