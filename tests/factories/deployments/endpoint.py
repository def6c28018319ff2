"""An HTTP server for webhooks to call."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """Answers each path with the status in ``answers``, else the one it names, such as /204; /hang when all is over."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: dict[str, int] = {}
        self.over = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                endpoint.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                if self.path == "/hang":
                    endpoint.over.wait(60.0)
                self.send_response(endpoint.status(self.path))
                self.end_headers()

            def log_message(self, *unused: object) -> None:
                """Tests are quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def status(self, path: str) -> int:
        return self.answers.get(path, int(path[1:]) if path[1:].isdigit() else 200)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
