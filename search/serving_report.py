"""`search report RUN --serve`: the report over HTTP on this machine, drawn anew whenever the log has grown."""

from __future__ import annotations

import http.server
import sys
from pathlib import Path

from archrank.search.config import ConfigError
from archrank.search.results import open_run

__all__ = ["serve", "server"]


class _Page(http.server.BaseHTTPRequestHandler):
    run: str = ""
    drawn: tuple[int, bytes] = (-1, b"")

    def do_GET(self) -> None:
        """The page at /, 404 elsewhere."""
        if self.path not in ("/", "/index.html"):
            self.send_error(404)
            return
        kind = type(self)
        length = (Path(self.run) / "trials.jsonl").stat().st_size
        if kind.drawn[0] != length:
            from archrank.search.report import render
            from archrank.search.summary import report_data

            kind.drawn = length, render(report_data(open_run(self.run))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(kind.drawn[1])))
        self.end_headers()
        self.wfile.write(kind.drawn[1])

    def log_message(self, format: str, *args: object) -> None:
        """Visits are not worth a line."""


def server(run: str, port: int) -> http.server.ThreadingHTTPServer:
    """A server of one run on 127.0.0.1; ConfigError where the port is taken or none."""
    open_run(run)
    page = type("Page", (_Page,), {"run": str(run), "drawn": (-1, b"")})
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), page)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--port {port}: cannot be served on: {error}; choose another, 0 for any free one") from None


def serve(run: str, port: int) -> int:
    """Serves until Ctrl-C."""
    with server(run, port) as found:
        print(f"http://127.0.0.1:{found.server_address[1]}/  (Ctrl-C ends it)", file=sys.stderr)
        try:
            found.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
