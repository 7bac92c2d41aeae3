"""A client that repeats its operations by itself, on any node, and whose writes are done once.

A write is sent in a session of the cluster, with a number. If its answer is lost, it is sent again
with the same number, to the next node: the cluster does not execute it again, and gives the first
answer.

A session is used by one write at a time. A write takes one that is idle, or opens one. So there are
as many sessions as there were writes at once, threads share no numbers, and the window of a session
is always wide enough. A child process does not use the sessions of its parent.
"""

import json
import os
import re
import time
from typing import Iterable, Iterator, List, Optional, Tuple, Union
from urllib.parse import quote

from .cluster import CONDITION_FAILED, NOT_FOUND, SESSION_IS_OVER, Cluster, Reply
from .errors import NOT_DONE, AnswerError, CommitFailedError
from .node import KEYS, check_texts, check_timeout, number

#: How long it may take to end the sessions, in seconds.
_CLOSE_SECONDS = 2.0
#: How often a ``cas`` begins again because the key changed after it was read.
_ROUNDS_MAX = 100

_SESSIONS = "/v1/sessions"
_ID = re.compile(r"[0-9]{1,20}")


class SessionClient:
    """A client of the cluster whose nodes are at ``addresses``. One address is enough.

    An operation that fails is repeated on one node after another, until it is decided or its time
    is over. A write is done once all the same. An object may be used by several threads. Use it as
    a context manager, or call :meth:`close`.

    :param addresses: the nodes, each as ``http://localhost:8080`` or ``localhost:8080``
    :param timeout_ms: how long an operation may take, with all attempts. It ends at most a second
        later.
    :raises ValueError: there is no address, or one is not an address
    """

    def __init__(self, addresses: Union[str, Iterable[str]], timeout_ms: int = 30_000) -> None:
        check_timeout(timeout_ms)
        self._cluster = Cluster(addresses)
        self.timeout_ms = timeout_ms
        # Threads take from it and put back without a lock: a child process might inherit it locked.
        self._idle: List[_Session] = []
        self._is_closed = False

    def __enter__(self) -> "SessionClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the sessions. Those that cannot be ended within 2 s end by themselves."""
        self._is_closed = True
        self._end_idle_sessions()
        self._cluster.drop()

    def put(self, key: str, value: str) -> None:
        """Writes a value.

        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        path = _path(key)
        check_texts(value=value)
        self._write("PUT", path, self._deadline(), value.encode()).check()

    def get(self, key: str) -> Tuple[Optional[str], bool]:
        """Reads a value; returns ``(value, found)``. Never an outdated one.

        :raises CommitFailedError: the read failed
        """
        reply = self._cluster.ask("GET", _path(key), self._deadline())
        return (None, False) if reply.status == NOT_FOUND else (reply.check().text, True)

    def cas(self, key: str, compare_value: str, new_value: str) -> Tuple[Optional[str], bool]:
        """Compares and swaps: writes ``new_value`` if the key has ``compare_value``.

        It returns ``(old_value, was_found)``. The new value was written if and only if that is
        ``(compare_value, True)``. It costs two requests: one reads the value with its version, the
        other writes if the version is still the same.

        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        path = _path(key)
        check_texts(compare_value=compare_value, new_value=new_value)
        content, deadline = new_value.encode(), self._deadline()
        for _ in range(_ROUNDS_MAX):
            read = self._cluster.ask("GET", path, deadline)
            if read.status == NOT_FOUND:
                return None, False
            if read.check().text != compare_value:
                return read.text, True
            condition = f"If-Match: {read.version}\r\n"
            written = self._write("PUT", path, deadline, content, condition)
            if written.status != CONDITION_FAILED:
                written.check()
                return compare_value, True
        raise CommitFailedError(f"cas: the key changed {_ROUNDS_MAX} times in between", NOT_DONE)

    def delete(self, key: str) -> bool:
        """Removes a key; returns whether it was there.

        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        reply = self._write("DELETE", _path(key), self._deadline())
        if reply.status == NOT_FOUND:
            return False
        reply.check()
        return True

    def _deadline(self) -> float:
        if self._is_closed:
            raise ValueError("the client is closed")
        return time.monotonic() + self.timeout_ms / 1000

    def _write(
        self,
        method: str,
        path: str,
        deadline: float,
        content: Optional[bytes] = None,
        headers: str = "",
    ) -> Reply:
        if content is not None:
            headers += "Content-Type: application/octet-stream\r\n"
        while True:
            session, reply = self._take_session(deadline), None
            numbered = headers + session.next_number()
            try:
                reply = self._cluster.ask(method, path, deadline, content, numbered, is_write=True)
                session.renew()
            finally:
                if reply is None or reply.status not in SESSION_IS_OVER:
                    self._put_back(session)
            if reply.failure is None or reply.status not in SESSION_IS_OVER:
                return reply
            # If an earlier attempt may have been done, another session would do it again. And a
            # session that has just been opened is not over: something else is wrong.
            if reply.failure.is_unknown or session.number == 1:
                return reply

    def _take_session(self, deadline: float) -> "_Session":
        for session in self._idle_sessions():
            # One that may have ended is left to end by itself.
            if time.monotonic() < session.fresh_until:
                return session
        return _Session(self._cluster.ask("POST", _SESSIONS, deadline).check().content)

    def _put_back(self, session: "_Session") -> None:
        self._idle.append(session)
        if self._is_closed:
            self._end_idle_sessions()

    def _idle_sessions(self) -> "Iterator[_Session]":
        """Takes sessions of this process that no write uses, the one used last first."""
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return
            if session.process == os.getpid():
                yield session

    def _end_idle_sessions(self) -> None:
        deadline = time.monotonic() + _CLOSE_SECONDS
        for session in self._idle_sessions():
            try:
                self._cluster.ask("DELETE", f"{_SESSIONS}/{session.id}", deadline)
            except CommitFailedError:
                return


class _Session:
    """An open session of the cluster, from the answer to the request that opened it."""

    def __init__(self, content: bytes) -> None:
        try:
            fields = json.loads(content)
            self.id, ttl_ms = fields["session"], fields["ttl_ms"]
        except (ValueError, LookupError, TypeError, RecursionError):
            self.id, ttl_ms = None, None
        if not isinstance(self.id, str) or not _ID.fullmatch(self.id) or not number(ttl_ms):
            raise AnswerError(f"{_SESSIONS}: the answer of a node without a session", NOT_DONE)
        self._idle_seconds_max = ttl_ms / 2000
        self.renew()
        #: The number of its latest write.
        self.number = 0
        self.process = os.getpid()

    def renew(self) -> None:
        """The cluster has just used it."""
        self.fresh_until = time.monotonic() + self._idle_seconds_max

    def next_number(self) -> str:
        """The headers of the next write."""
        self.number += 1
        return f"Session-Id: {self.id}\r\nSession-Seq: {self.number}\r\n"


def _path(key: str) -> str:
    check_texts(key=key)
    if not key:
        raise ValueError("key is empty")
    return f"{KEYS}{quote(key, safe='')}"
