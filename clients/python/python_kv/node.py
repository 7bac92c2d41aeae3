"""One node, spoken to over HTTP: a request is sent once, and only a node's answer is believed.

It uses the HTTP client of the standard library because the outcome of a failed operation depends
on how far its request came. A request that was not written whole was certainly not executed.
Nothing happens behind the caller's back: no proxy and no password file of the environment is used,
no redirect is followed, no request is repeated.
"""

import http.client
import io
import json
import os
import re
import select
import socket
import threading
import time
from typing import Any, Dict, NamedTuple, Optional, Tuple
from urllib.parse import quote, urlsplit

from .errors import NOT_DONE, UNKNOWN, AnswerError, NetworkError

#: How long a connection to one address of a node may take, in seconds.
CONNECT_TIMEOUT = 2.0
#: How long a node may take to answer what it answers at once, in seconds.
ANSWER_TIMEOUT = 5.0
#: How much longer than the node the client waits, in seconds: the node's own answer that the time
#: is over says more than none.
GRACE = 1.0
#: The longest answer that is read, in bytes. A node echoes up to three values, and JSON can make
#: six bytes of one.
ANSWER_BYTES_MAX = 256 << 20

_PART_BYTES = 64 << 10
_EXCERPT_CHARS = 60
#: Redirects that promise that the request was not executed (RFC 9110, 15.4).
_NOT_HERE = (307, 308)


class Target(NamedTuple):
    """The parts of a node's address."""

    scheme: str
    host: str
    port: int
    prefix: str


class Answer(NamedTuple):
    """An answer of a node: success (200), or a refusal with an explanation."""

    status: int
    fields: Dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether it is a success."""
        return self.status == 200

    @property
    def explanation(self) -> str:
        """The reason for the refusal, as the node gives it."""
        texts = [self.fields.get(name) for name in ("detail", "error", "title")]
        said = next((text for text in texts if isinstance(text, str)), "refused")
        return f"{said} (HTTP {self.status})"

    @property
    def outcome(self) -> str:
        """The outcome of an operation that is refused so."""
        said = self.fields.get("outcome")
        if said in (NOT_DONE, UNKNOWN):
            return str(said)
        # 503 is a refusal too: a node that accepted an operation does not answer so.
        return NOT_DONE if self.status < 500 or self.status == 503 else UNKNOWN


class Node:
    """The node at ``address``: a URL, or ``host:port`` alone.

    An object may be used by several threads; each has a connection of its own.
    """

    def __init__(self, address: str) -> None:
        self.url = address.rstrip("/")
        self._target: Optional[Target] = None
        # A wrong address is reported by each operation, as what it is: nothing was sent.
        self._fault = ""
        self._local = threading.local()
        try:
            self._target = parse(address)
            if "://" not in address:
                self.url = f"http://{self.url}"
        except ValueError as error:
            self._fault = f"{address!r} is no address of a node: {error}; nothing was sent"

    def ask(
        self, method: str, path: str, body: Optional[Dict[str, Any]], seconds: float
    ) -> Answer:
        """Sends one request, and returns the node's answer within ``seconds``.

        :raises NetworkError: there is no answer; its outcome is that of the request
        :raises AnswerError: the answer is not one of a node
        """
        deadline = time.monotonic() + seconds
        connection = self._connection(deadline)
        try:
            with self._exchange(connection, method, path, body) as response:
                content = self._read(response, path)
        except BaseException:
            # An answer may still be under way on it.
            connection.close()
            raise
        if response.will_close:
            connection.close()
        return self._judge(response, content, path)

    def foreign(self, path: str, what: str, outcome: str = UNKNOWN) -> AnswerError:
        """The error for an answer that no node gives."""
        return AnswerError(f"{self.url}{path}: not the answer of a raft-kv node: {what}", outcome)

    def _connection(self, deadline: float) -> "_Plain":
        """This thread's connection, made first if there is none that can be used."""
        if self._target is None:
            raise NetworkError(self._fault, NOT_DONE)
        # A child process must not read the answers to its parent.
        process, connection = getattr(self._local, "connection", (None, None))
        if process != os.getpid() or connection is None:
            connection = (_Tls if self._target.scheme == "https" else _Plain)(
                self._target.host, self._target.port
            )
            self._local.connection = (os.getpid(), connection)
        if connection.sock is not None and _is_readable(connection.sock):
            # Between requests there is nothing to read but the end of the connection.
            connection.close()
        connection.deadline = deadline
        if connection.sock is None:
            try:
                connection.timeout = min(CONNECT_TIMEOUT, _left(deadline))
                connection.connect()
            except (OSError, UnicodeError) as error:
                connection.close()
                why = f"name look-up failed: {error}" if _is_look_up(error) else str(error)
                raise NetworkError(f"{self.url}: not reached: {why}", NOT_DONE) from error
        return connection

    def _exchange(
        self,
        connection: "_Plain",
        method: str,
        path: str,
        body: Optional[Dict[str, Any]],
    ) -> http.client.HTTPResponse:
        assert self._target is not None and connection.sock is not None
        headers = {"Accept": "application/json", "User-Agent": "python-raft-kv"}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        unsent: Optional[OSError] = None
        try:
            connection.sock.settimeout(_left(connection.deadline))
            connection.request(method, self._target.prefix + path, content, headers)
        except OSError as error:
            # A node does not execute half a request. It may have said why it read no more.
            unsent = error
        try:
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            outcome = UNKNOWN if unsent is None else NOT_DONE
            raise self._lost(path, unsent or error, outcome) from error

    def _read(self, response: http.client.HTTPResponse, path: str) -> bytes:
        parts, size = [], 0
        while size <= ANSWER_BYTES_MAX:
            try:
                part = response.read(_PART_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise self._lost(path, error, UNKNOWN) from error
            if not part:
                break
            parts.append(part)
            size += len(part)
        else:
            raise self.foreign(path, f"it is longer than {ANSWER_BYTES_MAX} bytes")
        if response.length:
            raise NetworkError(f"{self.url}{path}: the answer ends too early")
        return b"".join(parts)

    def _lost(self, path: str, error: Exception, outcome: str) -> NetworkError:
        if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
            if not isinstance(error, http.client.IncompleteRead):
                return self.foreign(path, f"no HTTP ({type(error).__name__}: {str(error)[:60]!r})")
        what = "no answer in time" if isinstance(error, socket.timeout) else f"{error}"
        sent = "" if outcome == UNKNOWN else ": the request was not sent whole"
        return NetworkError(f"{self.url}{path}: {what or type(error).__name__}{sent}", outcome)

    def _judge(
        self, response: http.client.HTTPResponse, content: bytes, path: str
    ) -> Answer:
        """The answer, if it can be one of a node."""
        status = response.status
        try:
            # Thousands of brackets exhaust the parser's stack.
            fields = json.loads(content)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict) and (status == 200 or (status >= 400 and _refuses(fields))):
            return Answer(status, fields)
        text = content[:_EXCERPT_CHARS].decode("utf-8", "replace")
        kind = response.headers.get("Content-Type", "no type")
        what = f"HTTP {status}, {kind}, {len(content)} bytes: {text!r}"
        location = response.headers.get("Location")
        if location and 300 <= status < 400:
            what = f"HTTP {status}, a redirect to {location[:200]!r}, which is not followed"
        raise self.foreign(path, what, NOT_DONE if status in _NOT_HERE else UNKNOWN)


def parse(address: str) -> Target:
    """The parts of an address.

    :raises ValueError: it is none, and why
    """
    if re.search(r"[\s\x00-\x1f\x7f]", address):
        raise ValueError("it contains a space or a control character")
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{parts.scheme} is not spoken, use http")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("expected http://host:port")
    if not parts.hostname or parts.netloc.endswith(":"):
        raise ValueError("expected http://host:port")
    host_and_port = parts.netloc.rsplit("]", 1)[-1]
    if host_and_port.count(":") > 1:
        raise ValueError("an IPv6 address stands in brackets, as http://[::1]:8080")
    port = parts.port if parts.port is not None else {"http": 80, "https": 443}[parts.scheme]
    if port == 0:
        raise ValueError("port 0 cannot be reached")
    return Target(parts.scheme, parts.hostname, port, quote(parts.path.rstrip("/"), safe="/%"))


def text_or_none(value: Any) -> bool:
    """Whether ``value`` is a text or null."""
    return value is None or isinstance(value, str)


def number(value: Any) -> bool:
    """Whether ``value`` is a whole number from 0 on. JSON's true is none."""
    return type(value) is int and value >= 0


def check_texts(**texts: Any) -> None:
    """Keys and values are texts; anything else is a mistake of the program, before it is sent."""
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name}: expected str, not {type(text).__name__}")


def check_timeout(timeout_ms: float) -> None:
    """A time is positive."""
    if not timeout_ms > 0:
        raise ValueError(f"timeout_ms is {timeout_ms}: expected more than 0")


def _refuses(fields: Dict[str, Any]) -> bool:
    """Whether a node refuses so: the compatible API with ``error``, v1 with a type of its own."""
    kind = fields.get("type")
    is_problem = isinstance(kind, str) and kind.startswith("urn:raft-kv:problem:")
    return is_problem or isinstance(fields.get("error"), str)


def _left(deadline: float) -> float:
    """The seconds until then; never 0, which would mean not to wait at all."""
    return max(0.001, deadline - time.monotonic())


def _is_readable(sock: socket.socket) -> bool:
    if hasattr(select, "poll"):
        # Also for descriptors above 1023.
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])


def _is_look_up(error: Exception) -> bool:
    return isinstance(error, (socket.gaierror, UnicodeError))


class _Reader(io.RawIOBase):
    """Reads from a socket until a deadline. A socket's own timeout begins again with every byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        # It keeps the socket open when its connection ends with the answer.
        self._bytes = sock.makefile("rb", 0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        if time.monotonic() >= self._deadline:
            raise socket.timeout("timed out")
        self._sock.settimeout(_left(self._deadline))
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


class _Timed:
    """A socket as :class:`http.client.HTTPResponse` takes it."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._reader = _Reader(sock, deadline)

    def makefile(self, *_arguments: Any) -> io.BufferedReader:
        return io.BufferedReader(self._reader, _PART_BYTES)


class _Plain(http.client.HTTPConnection):
    """A connection whose answers have to be complete by a deadline."""

    deadline = 0.0
    # Only when asked to: a lost connection is an error, not a reason to send twice.
    auto_open = 0

    def __del__(self) -> None:
        # With its store or its thread.
        if getattr(self, "sock", None) is not None:
            self.close()

    def response_class(  # type: ignore[override]
        self, sock: Any, **arguments: Any
    ) -> http.client.HTTPResponse:
        timed: Any = _Timed(sock, self.deadline)
        return http.client.HTTPResponse(timed, **arguments)


class _Tls(_Plain, http.client.HTTPSConnection):
    """The same over TLS."""
