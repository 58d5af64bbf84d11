"""How fast requests become commands, on one core. Prints figures; promises nothing.

python -m tests.load.bench_convert
"""

import base64
import json
import time
from collections.abc import Callable, Mapping

from shared.apple.catalogue import CommandCatalogue
from shared.apple.command_json import parse_json

SMALL = {
    "udid": "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD",
    "request_type": "DeviceLock",
    "pin": "123456",
    "message": "Please return & call <us>",
}
SECONDS = 1.5
PROFILE_BYTES = 5 * 1024 * 1024


def rate(work: Callable[[], object]) -> float:
    """Runs per second, best of three."""
    best = 0.0
    for _ in range(3):
        runs, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS / 3:
            for _ in range(20):
                work()
            runs += 20
        best = max(best, runs / (time.perf_counter() - start))
    return best


def convert_rate(catalogue: CommandCatalogue, body: Mapping[str, object]) -> float:
    raw = json.dumps(body).encode()
    return rate(lambda: catalogue.prepare(parse_json(raw), lambda: "U"))


def main() -> None:
    catalogue = CommandCatalogue.load()
    settings = {
        "udid": SMALL["udid"],
        "request_type": "Settings",
        "settings": [
            {"item": "Bluetooth", "enabled": False},
            {"item": "DeviceName", "device_name": "a"},
        ],
    }
    for name, body in (("DeviceLock", SMALL), ("Settings, 2 items", settings)):
        print(f"{name}: {convert_rate(catalogue, body):,.0f}/s from the bytes of the request")
    profile = base64.b64encode(bytes(range(256)) * (PROFILE_BYTES // 256)).decode()
    request = {"udid": SMALL["udid"], "request_type": "InstallProfile", "payload": profile}
    raw = json.dumps(request).encode()
    best = min(_seconds(lambda: catalogue.prepare(parse_json(raw), lambda: "U")) for _ in range(9))
    print(f"InstallProfile of {PROFILE_BYTES / 2**20:.0f} MiB: {best * 1000:.1f} ms")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
