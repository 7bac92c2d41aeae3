"""A connection to a node: requests go out whole, and answers come back in their order.

A request is written by hand, in one piece. Answers are read by ``httptools``, the parser of Node.js
in C: with ``http.client`` an operation takes twice the time. How far a request came is known here,
because the outcome of a failed operation depends on it.
"""

import select
import socket
import ssl
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional

import httptools

from .address import Target

#: The longest answer that is read, in bytes. A node echoes up to three values, and JSON can make
#: six bytes of one.
ANSWER_BYTES_MAX = 256 << 20

_HEAD_BYTES_MAX = 64 << 10
_PART_BYTES = 64 << 10
#: A socket's timeout is set again when it is wrong by more than this, in seconds.
_TIMEOUT_SLACK = 0.01


class NoHttpError(Exception):
    """What arrives is no answer in HTTP, or a longer one than is read."""


class CutOffError(OSError):
    """The connection ended before the answer was complete."""


class Response:
    """An answer in HTTP. The names of its headers are in lower case."""

    __slots__ = ("status", "headers", "content", "stays")

    def __init__(
        self, status: int, headers: Dict[bytes, bytes], content: bytes, stays: bool
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        #: Whether the connection can take another request.
        self.stays = stays

    def header(self, name: bytes) -> Optional[str]:
        """The value of a header."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Connection:
    """A connection to one node, for one thread at a time.

    :raises OSError: there is nobody at the address
    """

    def __init__(self, target: Target, seconds: float) -> None:
        # Seconds are for each address that the name stands for.
        self._sock = socket.create_connection((target.host, target.port), seconds)
        self._timeout = seconds
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "https":
                context = ssl.create_default_context()
                context.set_alpn_protocols(["http/1.1"])
                self._sock = context.wrap_socket(self._sock, server_hostname=target.host)
        except BaseException:
            self._sock.close()
            raise
        self._answers = _Answers()
        self._parser = httptools.HttpResponseParser(self._answers)
        self._fault: Optional[NoHttpError] = None
        self._poll: Any = None
        if hasattr(select, "poll"):
            # Also for descriptors above 1023.
            self._poll = select.poll()
            self._poll.register(self._sock, select.POLLIN)

    def __del__(self) -> None:
        # With its store or its thread.
        if hasattr(self, "_sock"):
            self._sock.close()

    def close(self) -> None:
        """Ends it."""
        self._sock.close()

    @property
    def is_usable(self) -> bool:
        """Whether it can take a request. Between requests nothing arrives but its end."""
        if self._fault is not None or self._answers.is_amid or self._answers.complete:
            return False
        if self._poll is not None:
            return not self._poll.poll(0)
        return not select.select([self._sock], [], [], 0)[0]

    def send(self, data: bytes, deadline: float) -> None:
        """Sends a whole request.

        :raises OSError: it was not sent whole
        """
        self._limit(deadline)
        self._sock.sendall(data)

    def receive(self, deadline: float) -> Response:
        """The next answer. After a ``socket.timeout`` it may be called again.

        :raises CutOffError: the connection ended before
        :raises OSError: it failed, or the time is over
        :raises NoHttpError: what arrives is no answer
        """
        answers = self._answers
        while not answers.complete:
            if self._fault is not None:
                raise self._fault
            self._limit(deadline)
            data = self._sock.recv(_PART_BYTES)
            if not data:
                answers.end()
                break
            self._feed(data)
        return answers.complete.popleft()

    def _feed(self, data: bytes) -> None:
        answers = self._answers
        # The parser is lent, so that the two do not keep each other, and the socket, alive.
        answers.parser = self._parser
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # There may be complete answers before it.
            self._fault = NoHttpError(f"no HTTP ({type(error).__name__}: {str(error)[:60]!r})")
        finally:
            answers.parser = None
        answers.check_size(len(data))

    def _limit(self, deadline: float) -> None:
        """Sets the socket's timeout. It begins again with every byte, a deadline does not."""
        left = deadline - time.monotonic()
        if not left <= self._timeout <= left + _TIMEOUT_SLACK or left <= 0:
            # Never 0, which would mean not to wait at all.
            self._timeout = max(0.001, left)
            self._sock.settimeout(self._timeout)


class _Answers:
    """Collects what the parser finds: complete answers, and the one that is arriving."""

    def __init__(self) -> None:
        self.parser: Any = None
        self.complete: Deque[Response] = deque()
        #: Whether an answer has begun that is not complete.
        self.is_amid = False
        self._begin()

    def _begin(self) -> None:
        self._status = 0
        self._headers: Dict[bytes, bytes] = {}
        self._parts: List[bytes] = []
        self._bytes = 0

    def on_message_begin(self) -> None:
        self.is_amid = True
        self._begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._status = self.parser.get_status_code()
        self._bytes = 0

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self.is_amid = False
        # An interim answer announces another one.
        if not 100 <= self._status < 200:
            self._finish(bool(self.parser.should_keep_alive()))

    def end(self) -> None:
        """The connection has ended. That is the end of an answer without a length."""
        headers = self._headers
        has_length = b"content-length" in headers or b"transfer-encoding" in headers
        if not self.is_amid or not self._status or has_length:
            early = "the answer ends too early" if self.is_amid else "no answer"
            raise CutOffError(f"{early}: the connection was closed")
        self._finish(False)

    def check_size(self, arrived: int) -> None:
        """Counts what has arrived of a head or of a body, and gives up one that is too long."""
        if not self.is_amid:
            return
        self._bytes += arrived
        if not self._status and self._bytes > _HEAD_BYTES_MAX:
            raise NoHttpError(f"its head is longer than {_HEAD_BYTES_MAX} bytes")
        if self._bytes > ANSWER_BYTES_MAX:
            raise NoHttpError(f"it is longer than {ANSWER_BYTES_MAX} bytes")

    def _finish(self, stays: bool) -> None:
        content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.complete.append(Response(self._status, self._headers, content, stays))
