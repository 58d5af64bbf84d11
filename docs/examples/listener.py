"""A webhook listener that shows what arrives: `python docs/examples/listener.py [PORT]`.

A listener answers 2xx once it has stored the event; with any other answer, or none, the event
comes again, with the same event_id.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = event.get("checkin_event") or event["acknowledge_event"]
        size = len(base64.b64decode(content["raw_payload"]))
        who = content.get("udid") or content.get("enrollment_id")
        what = " ".join(content[key] for key in ("status", "command_uuid") if content.get(key))
        print(event["created_at"], event["topic"], who, what, f"({size} bytes)", flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The line above says enough."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
    print(f"listening on http://127.0.0.1:{port}/", flush=True)
    ThreadingHTTPServer(("127.0.0.1", port), Listener).serve_forever()
