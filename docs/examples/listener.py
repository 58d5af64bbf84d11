"""A webhook listener that shows what arrives: `python docs/examples/listener.py [PORT]`.

A listener answers 2xx once it has stored the event; with any other answer, or none, the event
comes again, with the same event_id. Answer 2xx to topics that you do not know, too: an event that is
not taken keeps the later ones of its device waiting.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def shown(event: dict[str, Any]) -> str:
    """Device, status, command and size; an event of a topic that is not known here has none of them."""
    content = event.get("checkin_event") or event.get("acknowledge_event") or {}
    keys = ("udid", "enrollment_id", "status", "command_uuid")
    found = [content[key] for key in keys if content.get(key)]
    if content.get("raw_payload"):
        found.append(f"({len(base64.b64decode(content['raw_payload']))} bytes)")
    return " ".join(found)


class Listener(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(event["created_at"], event["topic"], shown(event), flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The line above says enough."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    print(f"listening on http://127.0.0.1:{port}/", flush=True)
    ThreadingHTTPServer(("127.0.0.1", port), Listener).serve_forever()
