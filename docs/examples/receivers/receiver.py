"""A receiver of webhooks in Python: `WEBHOOK_SECRET=whsec_... python receiver.py [PORT] [FILE]`.

Needs `pip install fastapi uvicorn`. It checks the signature, drops doubles by event_id, stores every event,
whatever its topic, as a line of FILE, and answers once the line is on the disk.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
FILE = Path(sys.argv[2] if len(sys.argv) > 2 else "events.jsonl")
PATIENCE = 5 * 60  # seconds: an older request is somebody's copy


def secret_of(text: str) -> bytes:
    with suppress(ValueError):
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        if len(secret) >= 24:  # anybody could sign with an empty one
            return secret
    sys.exit("WEBHOOK_SECRET must be whsec_ and the base64 of 24 bytes or more")


SECRET = secret_of(os.environ.get("WEBHOOK_SECRET", ""))

app = FastAPI()
known: set[str] = set()
if FILE.exists():
    for line in FILE.read_text().splitlines():
        with suppress(ValueError):  # a line that a crash cut off: its event comes again
            known.add(json.loads(line)["event_id"])
file = FILE.open("a")
if file.tell():
    file.write("\n")  # ends such a line


def is_genuine(headers: Mapping[str, str], body: bytes) -> bool:
    sent_at = headers.get("webhook-timestamp", "")
    if not re.fullmatch("[0-9]{1,12}", sent_at) or abs(time.time() - int(sent_at)) > PATIENCE:
        return False
    content = f"{headers.get('webhook-id', '')}.{sent_at}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(SECRET, content, hashlib.sha256)).decode()
    given = headers.get("webhook-signature", "").split()  # several while the secret is changed
    return any(hmac.compare_digest(each.encode(), expected.encode()) for each in given)


def store(events: list[dict[str, Any]]) -> None:
    for event in events:
        if event["event_id"] not in known:
            file.write(json.dumps(event) + "\n")
    file.flush()
    os.fsync(file.fileno())
    known.update(event["event_id"] for event in events)


@app.post("/webhook")
async def receive(request: Request) -> Response:
    body = await request.body()
    if not is_genuine(request.headers, body):
        return Response(status_code=401)
    content = json.loads(body)
    store(content.get("events", [content]))  # a batch, or one event
    return Response(status_code=204)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT)
