"""What the dashboard answers to a browser: pages, the list as JSON, reports and small files; GET and HEAD alone.

Anything on this machine may ask, so nothing is taken on trust: paths stay below the outputs folder, whatever they hold; the Host
header must name this machine, or a web page elsewhere could reach in through its own name; pages run no script but their own.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from microlatent.dashboard.inventory import Inventory, is_shown
from microlatent.dashboard.reports import Reports
from microlatent.record import Record, is_run, is_sweep

PAGES = Path(__file__).parent / "pages"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
ASSETS = {"dashboard.css": "text/css; charset=utf-8", "dashboard.js": "text/javascript; charset=utf-8"}
SHOWN = {".png": "image/png", ".jpg": "image/jpeg", **dict.fromkeys((".csv", ".json", ".md", ".txt", ".yaml"), TEXT)}
OURS = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
# A report holds its scripts itself. In a sandbox it is of no origin, so that it can read nothing else of this server.
REPORT = "sandbox allow-scripts allow-modals allow-downloads allow-popups; default-src 'none'; script-src 'unsafe-inline' blob:"
REPORT += "; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

logger = logging.getLogger(__name__)


class Problem(Exception):
    """A request that cannot be answered: the HTTP status, and what a person should know."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Dashboard(ThreadingHTTPServer):
    """Serves one outputs folder on one address."""

    daemon_threads = True  # a browser's open connection does not keep Ctrl-C waiting

    def __init__(self, outputs: Path, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.root = outputs.resolve()
        self.inventory = Inventory(self.root)
        self.reports = Reports()
        self.templates = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)
        self.names = {"localhost", host.lower()} | (set() if is_loopback(host) else {socket.gethostname().lower()})

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away before it had asked."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Address to open in a browser."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host}]' if ':' in str(host) else host}:{port}/"

    def page(self, template: str, **values: Any) -> bytes:
        """Fill a template."""
        return self.templates.get_template(template).render(outputs=str(self.root), quote=quote, **values).encode()

    def locate(self, path: str) -> Path:
        """Return the file or folder below the root that a path of the address names.

        Raises
        ------
        Problem
            It is not there, is hidden, or lies outside, by its name or by a link.
        """
        parts = unquote(path).split("/")
        # Every refusal reads alike: what lies outside is not told apart from what does not exist.
        if all(part and is_shown(part) and not set(part) & {"\0", "\\"} for part in parts):
            found = self.root.joinpath(*parts)
            try:
                if found.resolve(strict=True).is_relative_to(self.root):
                    return found
            except (OSError, RuntimeError):
                pass  # absent, a name too long, or a link to itself
        raise Problem(
            HTTPStatus.NOT_FOUND, f"There is no {unquote(path)!r} below {self.root}. It may have been moved or removed."
        )


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Dashboard
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "microlatent", ""
    timeout = 60.0  # seconds that an idle connection is kept
    ROUTES: ClassVar[dict[str, str]] = {"report": "_report", "folder": "_folder", "file": "_file", "asset": "_asset"}

    def do_GET(self) -> None:
        """Answer, or say why not."""
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # nobody reads that body, and it must not pass for the next request
        try:
            self._check_host()
            address = split(self.path)
            route, _, rest = address.path.removeprefix("/").partition("/")
            if address.path == "/":
                self._send(self.server.page("list.html"))
            elif address.path == "/runs.json":
                since = parse_qs(address.query).get("since", ["0"])[0]
                changes = self.server.inventory.changes(int(since) if since.isdecimal() and len(since) < 20 else 0)
                self._send(json.dumps(changes, allow_nan=False).encode(), "application/json")
            elif route in self.ROUTES:
                getattr(self, self.ROUTES[route])(rest)
            else:
                raise Problem(HTTPStatus.NOT_FOUND, f"The dashboard has no page {address.path!r}.")
        except Problem as problem:
            self._refuse(problem.status, str(problem))
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the browser went away
        except PermissionError as error:
            self._refuse(HTTPStatus.FORBIDDEN, f"The user who started the dashboard may not read {error.filename}.")
        except Exception as error:
            logger.exception("%s could not be answered.", self.path)
            text = f"{type(error).__name__}: {error}. The whole account is in the terminal where the dashboard runs."
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    do_HEAD = do_GET  # _send leaves the body out

    def _not_allowed(self) -> None:
        self.close_connection = True  # a body may follow, which nobody will read
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"The dashboard only shows: {self.command} is not allowed, GET and HEAD are.")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _not_allowed

    def _check_host(self) -> None:
        """Refuse a request that came by the name of another machine, as a page elsewhere would make it."""
        host = split(f"//{self.headers.get('Host', '')}").hostname or ""
        if host not in self.server.names and not is_address(host):
            text = f"This request was for {host or 'no host'!r}, but the dashboard answers to {self.server.url} alone."
            raise Problem(HTTPStatus.MISDIRECTED_REQUEST, text)

    # ------------------------------------------------------------------------------------------------------- routes

    def _report(self, rest: str) -> None:
        folder = self.server.locate(rest)
        if not is_run(folder) and not is_sweep(folder):
            raise Problem(HTTPStatus.NOT_FOUND, f"{rest} is neither a run nor a sweep, so there is no report about it.")
        try:
            page = self.server.reports.of(folder)
        except (ValueError, OSError) as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"There is no report about {rest} yet: {error}") from error
        self._send(page, HTML, policy=REPORT)

    def _folder(self, rest: str) -> None:
        """Show what lies in a run, a step of a run or a sweep."""
        folder = self.server.locate(rest)
        if not folder.is_dir():
            raise Problem(HTTPStatus.NOT_FOUND, f"{rest} is no folder.")
        children = sorted((child for child in folder.iterdir() if is_shown(child.name)), key=lambda one: one.name)
        self._send(
            self.server.page(
                "folder.html",
                key=unquote(rest),
                status=Record(folder).status,
                has_report=is_sweep(folder) or (is_run(folder) and not is_run(folder.parent)),  # no step
                folders=[child.name for child in children if child.is_dir()],
                pictures=[child.name for child in children if child.suffix in (".png", ".jpg")],
                texts=[child.name for child in children if SHOWN.get(child.suffix) == TEXT],
                others=[child.name for child in children if child.is_file() and child.suffix not in SHOWN],
            )
        )

    def _file(self, rest: str) -> None:
        path = self.server.locate(rest)
        if path.suffix not in SHOWN or not path.is_file():
            raise Problem(HTTPStatus.NOT_FOUND, f"{unquote(rest)} is not shown here. It lies at {path}.")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._head(HTTPStatus.OK, SHOWN[path.suffix], size, "sandbox; default-src 'none'")
            while self.command != "HEAD" and size and (chunk := file.read(min(size, 1 << 16))):  # a log may grow meanwhile
                self.wfile.write(chunk)
                size -= len(chunk)
            if size and self.command != "HEAD":
                self.close_connection = True  # it shrank: fewer bytes come than were announced

    def _asset(self, rest: str) -> None:
        if rest not in ASSETS:
            raise Problem(HTTPStatus.NOT_FOUND, f"The dashboard has no file {rest!r}.")
        self._send((PAGES / rest).read_bytes(), ASSETS[rest])

    # ------------------------------------------------------------------------------------------------------ answers

    def _send(self, body: bytes, kind: str = HTML, status: HTTPStatus = HTTPStatus.OK, policy: str = OURS) -> None:
        self._head(status, kind, len(body), policy)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, length: int, policy: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        ours = f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", ours)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._send(self.server.page("message.html", title=f"{status.phrase} ({status.value})", text=text), status=status)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say in our own words what the server's base refuses: a request that is malformed, too long or of an unknown method."""
        self.close_connection = True
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).description)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing of ordinary requests: a page asks every few seconds."""


def split(address: str) -> SplitResult:
    """Return the parts of an address, none where it is malformed."""
    try:
        return urlsplit(address)
    except ValueError:
        return SplitResult("", "", "", "", "")


def is_address(host: str) -> bool:
    """Return whether a host is a number; one that is cannot be another machine's name for this one."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on this host."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
