"""A server that answers some requests never, or carries them out late, as an overloaded one does."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from speed import patience


class SlowServer(ThreadingHTTPServer):
    """In front of another server. Until it is freed, it keeps the answers to paths that hold `stalls`.

    `late`: it keeps the requests themselves, and passes them on when it is freed.
    """

    daemon_threads = True

    def __init__(self, behind: str, stalls: str, late: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.stalls = stalls
        self.late = late
        self.freed = threading.Event()
        self.kept = 0
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up waiting is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    server: SlowServer

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        request = urllib.request.Request(
            self.server.behind + self.path, body or None, headers, method=self.command
        )
        stalled = self.server.stalls in self.path and not self.server.freed.is_set()
        if stalled:
            self.server.kept += 1
        if stalled and self.server.late:
            self.server.freed.wait(patience(120))
        try:
            with urllib.request.urlopen(request, timeout=patience(60)) as reply:
                status, kind, text = reply.status, reply.headers.get("Content-Type", ""), reply.read()
        except urllib.error.HTTPError as error:
            status, kind, text = error.code, error.headers.get("Content-Type", ""), error.read()
        if stalled:
            self.server.freed.wait(patience(120))
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
