"""`make up` and `make down`: the whole system as separate processes on this machine.

Promises: `up` may be repeated; what it started is ended by `down`, by process id; state, logs,
process ids and the keys are in .run/.
"""

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import parts
from supervisor import (
    API_KEY,
    ENVIRONMENT,
    PIDS,
    READY,
    RUN,
    SECRET_KEY,
    START_SECONDS,
    STOP_SECONDS,
    Failed,
    Stack,
    leave_private,
    shown,
)

SUPERVISOR = RUN / "supervisor.pid"


def supervisor() -> int | None:
    """The process id of the supervisor that runs here, or None."""
    try:
        pid = int(SUPERVISOR.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(Path(__file__).name) in b"\0".join(command[1:2]) else None


def up() -> int:
    (RUN / "log").mkdir(parents=True, exist_ok=True)
    RUN.chmod(0o700)
    if supervisor() is None:
        ports_must_be_free()
        keep_keys()
        start_supervisor()
    show()
    return 0


def ports_must_be_free() -> None:
    proxy = int(os.environ.get("MDM_HTTP", ":8080").rpartition(":")[2])
    taken = [port for port in (proxy, *parts.SERVICES.values()) if parts.accepts(port)]
    if taken:
        raise Failed(f"port {taken[0]} is taken by another program; end it first")


def keep_keys() -> None:
    given = os.environ.pop("MDM_API_KEY", "") or os.environ.pop("MICROMDM_API_KEY", "")
    if given or not API_KEY.exists():
        leave_private(API_KEY, f"{given or secrets.token_hex(32)}\n")
    given = os.environ.pop("MDM_SECRET_KEY", "")
    if given or not SECRET_KEY.exists():
        fresh = base64.b64encode(secrets.token_bytes(32)).decode()
        leave_private(SECRET_KEY, f"{given or fresh}\n")


def start_supervisor() -> None:
    print("starting RabbitMQ, the store, four services and the proxy ...", flush=True)
    READY.unlink(missing_ok=True)
    log = RUN / "log" / "supervisor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    SUPERVISOR.write_text(str(process.pid))
    until(lambda: READY.exists() or process.poll() is not None, START_SECONDS * 4)
    if not READY.exists():
        process.terminate()
        process.wait()
        SUPERVISOR.unlink(missing_ok=True)
        raise Failed((log.read_text().strip().splitlines() or [f"see {shown(log)}"])[-1])


def show() -> None:
    known = json.loads(PIDS.read_text())
    for name, each in known.items():
        print(f"  {name:<9} {each['where']}  (process {each['pid']})")
    print(f"listens on  http://{known['proxy']['where']}")
    print(f"API key     in {shown(API_KEY)} (user micromdm)")
    webhook = os.environ.get("MDM_WEBHOOK_URL") or os.environ.get("MICROMDM_WEBHOOK_URL")
    if not webhook:
        print("webhook     none: make down, then MDM_WEBHOOK_URL=http://... make up")
    print(
        f"logs        in {shown(RUN / 'log')}; settings for other commands in {shown(ENVIRONMENT)}"
    )


def down() -> int:
    pid = supervisor()
    if pid is None:
        print("nothing runs here")
        return 0
    os.kill(pid, signal.SIGTERM)
    if not until(lambda: supervisor() is None, 4 * STOP_SECONDS):
        os.kill(pid, signal.SIGKILL)
    SUPERVISOR.unlink(missing_ok=True)
    print("ended; data stays in .run/")
    return 0


def until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def main() -> int:
    commands = {"up": up, "down": down, "serve": Stack().serve}
    try:
        return commands[sys.argv[1]]()
    except Failed as failure:
        print(f"macromdm: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
