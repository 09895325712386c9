"""The page's server: static files from a fixed list, and five questions as JSON. Loopback only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dreamer_lightning.errors import UserError

PAGE = Path(__file__).resolve().parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
LARGEST = 1 << 16  # bytes of a question


class Theatre:
    """Agents by name, of which one is on the stage.

    Args:
        open_agent: makes the player of a name.
        names: the names that may be asked for.
    """

    def __init__(self, open_agent: Callable[[str], Any], names: list[str]):
        self.open_agent, self.names = open_agent, names
        self.player: Any = None
        self.lock = threading.Lock()  # one question at a time: the player has a state

    def answer(self, question: str, asked: dict[str, Any]) -> Any:
        """The answer to a question of the page.

        Raises:
            UserError: one line for what cannot be done.
            KeyError: no such question.
        """
        with self.lock:
            if question == "open":
                return self.open(asked.get("name"))
            call = {"play": self.play, "dream": self.dream, "take": self.take, "push": self.push}[question]
            if self.player is None:
                self.open(self.names[0])
            return call(asked)

    def open(self, name: Any) -> Any:
        if name not in self.names:
            raise UserError(f"demo: no agent '{name}' here; {', '.join(self.names)}")
        self.player = self.open_agent(name)
        return {"name": name, **self.player.about()}

    def play(self, asked: dict[str, Any]) -> Any:
        actor = asked.get("actor") or ""
        return self.player.play(whole(asked, "seed", 1), bool(asked.get("greedy", True)), str(actor))

    def dream(self, asked: dict[str, Any]) -> Any:
        length, samples = whole(asked, "length", 50), whole(asked, "samples", 8)
        return self.player.dream(
            whole(asked, "start", 0), length, samples, asked.get("chance", 1.0), bool(asked.get("same"))
        )

    def take(self, asked: dict[str, Any]) -> Any:
        return self.player.take(whole(asked, "start", 0), asked.get("chance", 1.0))

    def push(self, asked: dict[str, Any]) -> Any:
        return self.player.push(asked.get("action"))


def whole(asked: dict[str, Any], name: str, default: int) -> int:
    """A whole number of a question, not negative."""
    value = asked.get(name, default)
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise UserError(f"demo: {name} is a whole number from 0 up")
    return value


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"  # the connection stays open: a step costs one round trip
    disable_nagle_algorithm = True  # headers and body leave at once
    server: Server

    def do_GET(self) -> None:
        """A file of the page, or the names of the agents."""
        path = self.path.partition("?")[0]
        if not self.local():
            self.reply(HTTPStatus.FORBIDDEN, b"this page answers on loopback only", "text/plain")
        elif path == "/api/agents":
            self.say({"names": self.server.theatre.names})
        elif path in self.server.files:
            file = self.server.files[path]
            self.reply(HTTPStatus.OK, file.read_bytes(), KINDS[file.suffix])
        else:
            self.reply(HTTPStatus.NOT_FOUND, b"no such page", "text/plain")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """A question of the page."""
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > LARGEST:
            self.close_connection = True  # what was sent is not read
            return self.say({"error": f"a question has at most {LARGEST} bytes"}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(int(size))
        if not self.local() or self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return self.say({"error": "questions come from this page alone, as JSON"}, HTTPStatus.FORBIDDEN)
        try:
            asked = json.loads(body or b"{}")
            if not isinstance(asked, dict):
                raise ValueError("not an object")
            self.say(self.server.theatre.answer(self.path.removeprefix("/api/"), asked))
        except UserError as error:
            self.say({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except KeyError:
            self.say({"error": "no such question"}, HTTPStatus.NOT_FOUND)
        except ValueError as error:
            self.say({"error": f"not understood: {error}"}, HTTPStatus.BAD_REQUEST)

    def local(self) -> bool:
        """Whether the browser asked this server by a loopback name, and from its own page: no other site may."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        return host in self.server.hosts and origin in (None, f"http://{host}")

    def say(self, answer: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.reply(status, json.dumps(answer, separators=(",", ":")).encode(), "application/json")

    def reply(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing: the terminal keeps the address in sight."""


class Server(ThreadingHTTPServer):
    """Serves one theatre.

    Args:
        theatre: answers the questions.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, theatre: Theatre, port: int = 0):
        self.theatre = theatre
        found = {f"/{file.name}": file for file in PAGE.iterdir() if file.suffix in KINDS}
        self.files = {"/": PAGE / "index.html", **found}
        super().__init__(("127.0.0.1", port), Handler)

    @cached_property
    def hosts(self) -> set[str]:
        return {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"
