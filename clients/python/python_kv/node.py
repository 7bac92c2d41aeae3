"""One node, spoken to over HTTP: a request is sent once, and only a node's answer is believed.

The outcome of a failed operation depends on how far its request came. A request that was not
written whole was certainly not executed. Nothing happens behind the caller's back: no proxy and no
password file of the environment is used, no redirect is followed, no request is repeated.
"""

import json
import os
import re
import socket
import threading
import time
from typing import Any, Callable, Dict, NamedTuple, Optional

from .address import Target, parse
from .connection import Connection, NoHttpError, Response
from .errors import NOT_DONE, UNKNOWN, AnswerError, CommitFailedError, NetworkError

#: How long a connection to one address of a node may take, in seconds.
CONNECT_TIMEOUT = 2.0
#: How long a node may take to answer what it answers at once, in seconds.
ANSWER_TIMEOUT = 5.0
#: How long a node that is late may take to show that it lives, in seconds.
GRACE = 1.0

#: Where the keys of the v1 API are.
KEYS = "/v1/kv/"
#: The header that each answer of a node has.
NODE_ID = b"raft-kv-node"
#: The version of a key, as the header ``ETag`` has it.
VERSION = re.compile(r'"[0-9]+"')

_EXCERPT_CHARS = 60
_JSON = "Content-Type: application/json\r\n"
#: Redirects that promise that the request was not executed (RFC 9110, 15.4).
_NOT_HERE = (307, 308)


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


class NotReachedError(NetworkError):
    """There is nobody at the address."""


class Node:
    """The node at ``address``: a URL, or ``host:port`` alone.

    An object may be used by several threads; each has a connection of its own.
    """

    def __init__(self, address: str) -> None:
        self.url = address.rstrip("/")
        self._target: Optional[Target] = None
        #: What is wrong with the address. Each operation reports it: nothing was sent.
        self.fault = ""
        self._host = self._prefix = ""
        self._local = threading.local()
        try:
            target = parse(address)
            self._host, self._prefix = target.host_field, target.prefix
            self._target = target
            if "://" not in address:
                self.url = f"http://{self.url}"
        except ValueError as error:
            self.fault = f"{address!r} is no address of a node: {error}; nothing was sent"

    def ask(self, path: str, seconds: float) -> Answer:
        """Gets what the node knows at once, within ``seconds``.

        :raises NetworkError: there is no answer; its outcome is that of the request
        :raises AnswerError: the answer is not one of a node
        """
        deadline = time.monotonic() + seconds
        request = self._request("GET", path, None, "")
        response = self._exchange(path, request, deadline, lambda one: one.receive(deadline))
        return self.judge(response, path)

    def execute(
        self,
        method: str,
        path: str,
        content: Optional[bytes],
        seconds: float,
        headers: str = _JSON,
    ) -> Response:
        """Sends an operation, and returns the answer within ``seconds``, be it another server's.

        ``headers`` are whole lines, beyond those that each request has.

        An operation takes as long as the cluster needs. A node that is silent is asked for a sign
        of life, after a few seconds and when the time is over: a node that hangs is found out
        soon, and told from an operation that is not committed.

        :raises NetworkError: there is no answer, nor a sign of life
        :raises AnswerError: the answer is no HTTP
        :raises CommitFailedError: the node lives, but the time is over
        """
        began = time.monotonic()
        deadline = began + seconds
        soon = began + ANSWER_TIMEOUT - GRACE

        def receive(connection: Connection) -> Response:
            for until in (soon, deadline) if soon < deadline else (deadline,):
                try:
                    return connection.receive(until)
                except socket.timeout:
                    if not self._lives(deadline + GRACE):
                        raise
            what = f"not committed within {seconds:g} s"
            raise CommitFailedError(f"{self.url}{path}: {what}", UNKNOWN)

        # A node that lives takes a request soon, however long it then works on it.
        sent = began + min(ANSWER_TIMEOUT, seconds)
        return self._exchange(path, self._request(method, path, content, headers), sent, receive)

    def foreign(self, path: str, what: str, outcome: str = UNKNOWN) -> AnswerError:
        """The error for an answer that no node gives."""
        return AnswerError(f"{self.url}{path}: not the answer of a raft-kv node: {what}", outcome)

    def kept(self) -> Optional[Connection]:
        """This thread's connection."""
        process, connection = getattr(self._local, "connection", (None, None))
        # A child process must not read the answers to its parent.
        return connection if process == os.getpid() else None

    def drop(self) -> None:
        """Ends this thread's connection: an answer may still be under way on it."""
        connection = self.kept()
        if connection is not None:
            connection.close()
        self._local.connection = (None, None)

    def short_request(self, path: str) -> bytes:
        """The shortest request for what is at a path."""
        return f"GET {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()

    def _request(self, method: str, path: str, content: Optional[bytes], headers: str) -> bytes:
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}\r\n"
            f"Accept: application/json\r\nUser-Agent: python-raft-kv\r\n{headers}"
        )
        if content is None:
            return f"{head}\r\n".encode()
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def lost(self, path: str, error: Exception, was_sent: bool = True) -> NetworkError:
        """The error for a request without an answer."""
        if isinstance(error, NoHttpError):
            return self.foreign(path, f"{error}", UNKNOWN if was_sent else NOT_DONE)
        what = "no answer in time" if isinstance(error, socket.timeout) else f"{error}"
        sent = "" if was_sent else ": the request was not sent whole"
        outcome = UNKNOWN if was_sent else NOT_DONE
        return NetworkError(f"{self.url}{path}: {what or type(error).__name__}{sent}", outcome)

    def judge(self, response: Response, path: str) -> Answer:
        """The answer, if it can be one of a node."""
        status, content = response.status, response.content
        try:
            # Thousands of brackets exhaust the parser's stack.
            fields = json.loads(content)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict) and (status == 200 or (status >= 400 and _refuses(fields))):
            return Answer(status, fields)
        text = content[:_EXCERPT_CHARS].decode("utf-8", "replace")
        kind = response.header(b"content-type") or "no type"
        what = f"HTTP {status}, {kind[:60]}, {len(content)} bytes: {text!r}"
        location = response.header(b"location")
        if location and 300 <= status < 400:
            what = f"HTTP {status}, a redirect to {location[:200]!r}, which is not followed"
        raise self.foreign(path, what, NOT_DONE if status in _NOT_HERE else UNKNOWN)

    def _exchange(
        self,
        path: str,
        request: bytes,
        deadline: float,
        receive: Callable[[Connection], Response],
    ) -> Response:
        connection = self.kept()
        if connection is None or not connection.is_usable:
            connection = self._connect(deadline)
        unsent: Optional[OSError] = None
        try:
            try:
                connection.send(request, deadline)
            except OSError as error:
                # A node does not execute half a request. It may have said why it read no more.
                unsent = error
            response = receive(connection) if unsent is None else connection.receive(deadline)
        except (OSError, NoHttpError) as error:
            self.drop()
            raise self.lost(path, unsent or error, unsent is None) from error
        except BaseException:
            self.drop()
            raise
        if not response.stays or unsent is not None:
            self.drop()
        return response

    def _connect(self, deadline: float) -> Connection:
        if self._target is None:
            raise NotReachedError(self.fault, NOT_DONE)
        try:
            connection = Connection(self._target, min(CONNECT_TIMEOUT, left(deadline)))
        except (OSError, UnicodeError) as error:
            why = f"name look-up failed: {error}" if _is_look_up(error) else str(error)
            raise NotReachedError(f"{self.url}: not reached: {why}", NOT_DONE) from error
        self._local.connection = (os.getpid(), connection)
        return connection

    def _lives(self, deadline: float) -> bool:
        """Whether the node answers at all, on another connection."""
        try:
            Node(self.url).ask("/is_leader", min(GRACE, left(deadline)))
        except NetworkError:
            return False
        return True


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


def left(deadline: float) -> float:
    """The seconds until then; never 0, which would mean not to wait at all."""
    return max(0.001, deadline - time.monotonic())


def _is_look_up(error: Exception) -> bool:
    return isinstance(error, (socket.gaierror, UnicodeError))
