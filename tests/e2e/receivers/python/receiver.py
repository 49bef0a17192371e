"""Takes CloudEvents over HTTP as the CloudEvents project's Python SDK understands them, and says what it understood.

stdout: {"port": ...} first, then one line per event that the SDK took, or per request that it refused. POST: 202, or 400
where the SDK refuses; 415 for batches, which this SDK does not know. OPTIONS: 204, which is what the uplink's probe asks.
"""

import base64
import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.core.bindings.http import HTTPMessage, from_http_event

LOCK = threading.Lock()


def say(line):
    with LOCK:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def data_of(event):
    data = event.get_data()
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    return b"" if data is None else json.dumps(data, separators=(",", ":")).encode()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_OPTIONS(self):
        self.answer(204)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("application/cloudevents-batch"):
            self.answer(415)
            return
        try:
            event = from_http_event(HTTPMessage(headers={k.lower(): v for k, v in self.headers.items()}, body=body))
            attributes = {k: v if isinstance(v, str) else str(v) for k, v in event.get_attributes().items()}
            line = {
                "mode": "structured" if kind.startswith("application/cloudevents") else "binary",
                "attributes": attributes,
                "data": base64.b64encode(data_of(event)).decode(),
            }
        except Exception as error:  # whatever the SDK thinks of it
            say({"refused": f"{type(error).__name__}: {error}"})
            self.answer(400)
            return
        say(line)
        self.answer(202)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
server.daemon_threads = True
say({"port": server.server_address[1]})
server.serve_forever()
