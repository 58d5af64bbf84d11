"""How fast requests become commands, on one core: the bytes of a request to what is stored.

Counted is the processor's time, so that neighbours on the machine disturb little. Figures with their targets
beside them, no verdicts. `make bench ARGS=--convert`, or

    python -m tests.load.bench_convert
"""

import base64
import json
import plistlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.request.advice import Recipient
from shared.apple.request.plist import PreparedCommand
from shared.apple.request.read_json import parse_json

UDID = "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"
SMALL: Mapping[str, Mapping[str, object]] = {
    "DeviceLock": {
        "request_type": "DeviceLock",
        "pin": "123456",
        "message": "Please return & call <us>",
    },
    "DeviceInformation": {
        "request_type": "DeviceInformation",
        "queries": ["OSVersion", "SerialNumber", "DeviceName", "BatteryLevel"],
    },
    "Settings, 2 items": {
        "request_type": "Settings",
        "settings": [
            {"item": "Bluetooth", "enabled": False},
            {"item": "DeviceName", "device_name": "a"},
        ],
    },
    "RemoveProfile with terms": {
        "request_type": "RemoveProfile",
        "identifier": "com.example.wifi",
        "ttl": 3600,
        "priority": 1,
        "collapse_key": "wifi",
    },
}
TARGET = 20_000
SECONDS = 0.4
PROFILE_BYTES = 5 * 1024 * 1024
PROFILE_TARGET = 50
PHONE = Recipient("iPhone14,2", "16.1", is_device_channel=True, is_user_enrollment=False)


def rate(work: Callable[[], object]) -> float:
    """Runs per second, best of three."""
    best = 0.0
    for _ in range(3):
        runs, start = 0, time.process_time()
        while time.process_time() - start < SECONDS / 3:
            for _ in range(20):
                work()
            runs += 20
        best = max(best, runs / (time.process_time() - start))
    return best


def seconds(work: Callable[[], object]) -> float:
    """The best of nine runs."""
    best = float("inf")
    for _ in range(9):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def convert(catalogue: CommandCatalogue, raw: bytes) -> PreparedCommand:
    """All that happens to a request before it is queued for one device."""
    prepared = catalogue.prepare(parse_json(raw), lambda: "U")
    catalogue.advise(prepared, PHONE)
    return prepared


def profiles() -> Iterator[tuple[str, bytes]]:
    """Profiles of five megabytes: opaque bytes, and property lists with a picture inside."""
    noise = random.Random(1).randbytes(PROFILE_BYTES)
    yield "opaque", noise
    for name, form, share in (("XML", plistlib.FMT_XML, 0.73), ("binary", plistlib.FMT_BINARY, 1)):
        inner = {"PayloadType": "com.apple.font", "Font": noise[: int(PROFILE_BYTES * share)]}
        profile = {"PayloadContent": [inner], "PayloadIdentifier": "com.example.font"}
        yield name, plistlib.dumps(profile, fmt=form)


def main() -> None:
    catalogue = CommandCatalogue.load()
    for name, body in SMALL.items():
        raw = json.dumps({"udid": UDID, **body}).encode()
        found = rate(lambda raw=raw: convert(catalogue, raw))  # type: ignore[misc]  # bound now
        _say(f"{name}: {found:,.0f}/s (target {TARGET:,}/s)")
    for name, profile in profiles():
        body = {"request_type": "InstallProfile", "payload": base64.b64encode(profile).decode()}
        raw = json.dumps({"udid": UDID, **body}).encode()
        took = seconds(lambda raw=raw: convert(catalogue, raw)) * 1000  # type: ignore[misc]
        size = len(profile) / 2**20
        _say(f"InstallProfile, {name}, {size:.1f} MiB: {took:.1f} ms (target {PROFILE_TARGET} ms)")


def _say(line: str) -> None:
    sys.stdout.write(f"convert  {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
