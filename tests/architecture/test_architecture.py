"""What documents and style promise about the code, where neither a linter nor an import contract can look."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from shared.messaging.topology import DEAD_LETTER_QUEUE, EVENTS_EXCHANGE, partition_queue
from tests.architecture.sources import ROOT, SOURCES, relative, tree_of

RULES = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
TESTING = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")

NUMBERS = range(1, 17)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")

# What `import` of a module must never do: open, connect, run, start.
WORK = frozenset(
    {"open", "connect", "create_task", "run", "start", "Popen", "socket", "system"}
    | {"AsyncIOMotorClient", "AsyncMongoClient", "MongoClient", "AsyncClient", "ClientSession"}
    | {"Mongo", "RabbitBroker", "LocalBroker", "FastAPI", "urlopen", "read_text", "read_bytes"}
)
# Where `except Exception` may stand: the shared loop, around a message handler, around bytes from outside.
CATCH_ALL = {
    "shared/concurrency/periodic.py": "the one periodic loop",
    "shared/concurrency/batching.py": "hands the error of a batch to each of its submitters",
    "shared/storage/sqlite/engine/submission.py": "hands the error of a write to its submitter",
    "shared/web/api/route.py": "around a handler of requests",
    "shared/web/server/whole.py": "around a handler of requests",
    "shared/web/server/server.py": "the end of a process, which ends every part, whatever fails",
    "shared/storage/remote/server.py": "around a handler of requests",
    "shared/storage/remote/frames.py": "bytes from outside",
    "shared/messaging/rabbit/connection.py": "around what the AMQP library makes of the peer's bytes",
    "shared/messaging/rabbit/partitions.py": "around a message handler",
    "shared/messaging/rabbit/push_requests.py": "around a message handler",
    "shared/messaging/memory/broker.py": "around a message handler",
    "services/push/intake.py": "around a message handler",
    "services/webhook/delivery/first_attempt.py": "around a message handler",
    "services/webhook/delivery/scheduler.py": "around a message handler: an event's next attempt",
    "services/webhook/endpoints/subscribers.py": "raises what one subscription met behind the others",
    "services/checkin/scep/server.py": "bytes from outside",
    "shared/apple/plist/read.py": "bytes from outside",
    "shared/security/signature/signers.py": "bytes from outside",
    "shared/security/signature/cms.py": "bytes from outside",
    "shared/network/peer_certificates.py": "bytes from outside",
    "shared/security/scep/message.py": "bytes from outside",
    "shared/security/scep/envelope.py": "bytes from outside",
    "shared/security/scep/request.py": "bytes from outside",
}

# Loops that wait for an outage outside the shared one: not background work, or not of the services.
OWN_LOOPS = {
    "shared/web/server/server.py": "the start of a process: any other exception ends it",
    "shared/messaging/rabbit/connection.py": "the connection, whose pauses depend on how long it held",
    "shared/messaging/rabbit/consume.py": "puts a message aside; it may not be acked before",
    "shared/messaging/rabbit/push_requests.py": "consumes until its channel breaks; intake.py guards it",
    "services/webhook/delivery/first_attempt.py": "the first event of a queue, until its body is read back",
    "services/webhook/delivery/store.py": "one operation for a waiting caller, who hears other errors",
}

OUTAGES = frozenset({"Unavailable", "StoreUnavailable", "BrokerUnavailable", "MdmError"})

MODULES = [path for path in SOURCES if path.name != "__main__.py"]  # importing that is the program

TIME_OR_ID = re.compile(
    r"(^|\.)(datetime|date)\.(now|utcnow|today)$|^time\.(time|time_ns)$|(^|\.)uuid[147]$"
)

# Paths of one machine: somebody's home, a temporary folder by name, a mounted work folder. Put
# together here, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    "|".join(
        rf"(?<![\w.$}}]){re.escape('/' + path)}" for path in ("root/", "home/", "work/", "tmp/v")
    )
)


@cache
def named_tests(path: Path) -> frozenset[str]:
    """The test functions of a module."""
    if not path.exists():
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name for node in ast.walk(tree_of(path)) if isinstance(node, functions)}
    return frozenset(name for name in found if name.startswith("test_"))


def all_tests() -> set[str]:
    return {name for path in (ROOT / "tests").rglob("test_*.py") for name in named_tests(path)}


def section(number: int) -> str:
    """The text of one rule; empty where it has no heading."""
    parts = re.split(r"^## Rule (\d+): .+$", RULES, flags=re.MULTILINE)
    return dict(zip(map(int, parts[1::2]), parts[2::2], strict=True)).get(number, "")


@pytest.mark.parametrize("number", NUMBERS)
def test_every_rule_is_explained_and_held_by_a_test_of_its_number(number: int) -> None:
    named = {name for _, name in NAMED_TEST.findall(section(number))}
    held_by = {name for name in all_tests() if name.startswith(f"test_rule_{number:02d}_")}

    assert named & held_by


def test_no_test_is_of_a_rule_that_does_not_exist() -> None:
    numbers = {
        int(match[1]) for name in all_tests() if (match := re.match(r"test_rule_(\d+)", name))
    }

    assert numbers <= set(NUMBERS)


@pytest.mark.parametrize(
    "document", [RULES, TESTING, FINDINGS], ids=["rules", "testing", "findings"]
)
def test_every_test_that_a_document_names_exists(document: str) -> None:
    named = NAMED_TEST.findall(document)
    missing = [f"{file}::{name}" for file, name in named if name not in named_tests(ROOT / file)]

    assert named
    assert not missing


@pytest.mark.parametrize("document", [RULES, FINDINGS], ids=["rules", "findings"])
def test_the_files_that_a_document_names_exist(document: str) -> None:
    named = set(re.findall(r"`((?:services|shared)/[\w/]+\.py)`", document))
    missing = {name for name in named if not (ROOT / name).exists()}

    assert named
    assert not missing


def test_no_module_has_a_name_that_says_nothing() -> None:
    nothing = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common|data|info)$")

    assert not [relative(path) for path in SOURCES if nothing.search(path.stem)]


def test_only_the_clock_asks_for_the_time_and_makes_ids() -> None:
    asked = {
        f"{relative(path)}:{node.lineno}"
        for path in SOURCES
        if relative(path) != "shared/concurrency/clock.py"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and TIME_OR_ID.search(ast.unparse(node.func))
    }

    assert not asked


def test_adapters_read_values_of_closed_sets_by_the_one_function_that_knows_of_newer_versions() -> (
    None
):
    """An enum's constructor raises for a value that only a newer version knows, and with it fails whatever
    was read beside it."""
    classes = [
        node
        for path in SOURCES
        if relative(path).startswith(("shared/domain/", "shared/ports/"))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    ]
    enums = {each.name for each in classes if {"StrEnum"} & set(map(ast.unparse, each.bases))}
    asked = {
        f"{relative(path)}:{node.lineno}"
        for path in SOURCES
        if relative(path).startswith("shared/storage/")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call | ast.Subscript)
        and ast.unparse(node.func if isinstance(node, ast.Call) else node.value) in enums
    }

    assert len(enums) > 8
    assert not asked


def called(tree: ast.AST) -> Iterator[str]:
    """The last names of the functions called somewhere below."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2]


def test_names_on_the_broker_stand_in_the_topology_only() -> None:
    names = {EVENTS_EXCHANGE, DEAD_LETTER_QUEUE}
    queue = re.compile(re.escape(partition_queue(7).removesuffix("07")) + r"(\d|$)")
    prefixes = (f"{EVENTS_EXCHANGE}.", "x-queue-", "x-dead-")
    found = {
        f"{relative(path)}:{node.lineno}"
        for path in SOURCES
        if relative(path) != "shared/messaging/topology.py"
        for node in texts_of_code(tree_of(path))
        for text in [str(node.value)]
        if text in names or text.startswith(prefixes) or queue.match(text)
    }

    assert not found


def texts_of_code(tree: ast.Module) -> Iterator[ast.Constant]:
    """The text constants of a module, without statements that are only a text: documentation."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if isinstance(node, ast.Constant) and is_text and id(node) not in documentation:
            yield node


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_importing_a_module_does_no_work(path: Path) -> None:
    assert not {name for name in called_at_import(tree_of(path).body) if name in WORK}


def called_at_import(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for evaluated in [*statement.decorator_list, *statement.args.defaults]:
                yield from called(evaluated)
        elif isinstance(statement, ast.ClassDef):
            yield from called_at_import(statement.body)
        elif not is_main_guard(statement):
            yield from called(statement)


def is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def test_no_committed_text_names_a_path_of_one_machine() -> None:
    found = {
        f"{name}:{number}"
        for name, text in committed_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATHS.search(line)
    }

    assert not found


def committed_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else list(map(relative, SOURCES))
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_every_decision_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "adr"
    listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))

    assert listed == {path.name for path in folder.glob("[0-9]*.md")}


def test_a_process_alone_does_not_load_the_drivers_of_mongodb_and_rabbitmq() -> None:
    """They would make its start and its memory larger for nothing."""
    alone = [
        "services.runtime.all_in_one",
        "shared.storage.sqlite",
        "shared.messaging.memory.broker",
    ]
    apps = [f"services.{name}.app" for name in ("checkin", "commands", "push", "webhook")]
    program = f"import sys, {', '.join([*alone, *apps])}; print(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert {"motor", "pymongo", "aio_pika", "aiormq"}.isdisjoint(done.stdout.split())


def names_in(node: ast.expr | None) -> set[str]:
    return set() if node is None else {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def test_only_the_shared_loop_handlers_and_parsers_catch_everything() -> None:
    found = {
        relative(path)
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and "Exception" in names_in(node.type)
    }

    assert found == CATCH_ALL.keys()


def test_only_the_shared_loop_waits_for_an_outage_again_and_again() -> None:
    found = {
        relative(path)
        for path in SOURCES
        for loop in ast.walk(tree_of(path))
        if isinstance(loop, ast.While)
        for node in ast.walk(loop)
        if isinstance(node, ast.ExceptHandler) and names_in(node.type) & OUTAGES
    }

    assert found == OWN_LOOPS.keys()
