"""Several nodes of one cluster: a request goes to one after another, until one decides it."""

import time
from typing import Iterable, NamedTuple, Optional, Union

from .connection import Response
from .errors import NOT_DONE, UNKNOWN, AnswerError, CommitFailedError
from .node import KEYS, NODE_ID, VERSION, Node, NotReachedError, check_texts, left

#: How long the first attempts may take, in seconds. Later ones may take as long as the request has
#: taken so far: a cluster that is slower than one attempt gets done with a longer one.
_ATTEMPT_SECONDS = 2.0
#: The pauses after all nodes have failed, in seconds. They double. An election takes about 1 s.
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.05, 1.0

NOT_FOUND = 404
CONDITION_FAILED = 412
#: A session cannot be used any more.
SESSION_IS_OVER = (409, 410)
_OVERLOADED = 429
#: This attempt has not succeeded; another one may.
_AGAIN = (408, _OVERLOADED, 503, 504)
_SUCCESS = {"GET": 200, "PUT": 200, "DELETE": 204, "POST": 201}


class Reply(NamedTuple):
    """What a node has decided. For a write in a session it stays so, however often it is sent."""

    status: int
    version: str
    content: bytes
    #: The error, if it is a refusal.
    failure: Optional[CommitFailedError]

    def check(self) -> "Reply":
        """Raises the error, if it is a refusal."""
        if self.failure is not None:
            raise self.failure
        return self

    @property
    def text(self) -> str:
        """The value that was read."""
        return self.content.decode("utf-8", "replace")


class Cluster:
    """The nodes at ``addresses``. May be used by several threads.

    :raises ValueError: there is no address, or one is not an address
    """

    def __init__(self, addresses: Union[str, Iterable[str]]) -> None:
        given = [addresses] if isinstance(addresses, str) else list(addresses)
        if not given:
            raise ValueError("addresses is empty: expected some, as http://localhost:8080")
        for address in given:
            check_texts(address=address)
        self._nodes = [Node(address) for address in given]
        for node in self._nodes:
            if node.fault:
                raise ValueError(node.fault)
        # The node that answered last is asked first.
        self._first = 0
        self._has_found_a_node = False

    def drop(self) -> None:
        """Ends this thread's connections."""
        for node in self._nodes:
            node.drop()

    def ask(
        self,
        method: str,
        path: str,
        deadline: float,
        content: Optional[bytes] = None,
        headers: str = "",
        is_write: bool = False,
    ) -> Reply:
        """Sends a request to one node after another, until one decides it. It has to be one that
        may be repeated.

        :param headers: whole lines
        :param is_write: if it fails, it matters whether it may have been done
        :raises CommitFailedError: the time is over, or no node is at the addresses
        """
        began, pause = time.monotonic(), _PAUSE_SECONDS
        is_in_doubt = False
        while True:
            first = self._first
            for at in [*range(first, len(self._nodes)), *range(first)]:
                node = self._nodes[at]
                seconds = max(_ATTEMPT_SECONDS, time.monotonic() - began)
                seconds = min(seconds, left(deadline))
                # The node gives up waiting for a leader first: it knows what was not done.
                wait = f"raft-kv-wait-ms: {int(seconds * 750)}\r\n"
                try:
                    response = node.execute(method, path, content, seconds, headers + wait)
                    reply = _judged(node, method, path, response)
                except CommitFailedError as error:
                    failure = error
                else:
                    self._first, self._has_found_a_node = at, True
                    if reply.failure is not None and is_in_doubt:
                        reply.failure.outcome = UNKNOWN
                    return reply
                is_in_doubt = is_in_doubt or (is_write and failure.is_unknown)
                failure.outcome = UNKNOWN if is_in_doubt else NOT_DONE
                if not isinstance(failure, (NotReachedError, AnswerError)):
                    self._has_found_a_node = True
                if isinstance(failure, _OverloadedError):
                    pause = _PAUSE_SECONDS_MAX
                if time.monotonic() >= deadline:
                    raise failure
            # Where no node has ever been, none is waited for.
            if not self._has_found_a_node or time.monotonic() + pause >= deadline:
                raise failure
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)


class _OverloadedError(CommitFailedError):
    """The node has too many requests. It asks to wait for a second."""


def _judged(node: Node, method: str, path: str, response: Response) -> Reply:
    """What a node's answer decides.

    :raises AnswerError: it is not the answer of a node
    :raises CommitFailedError: nothing is decided; another attempt may succeed
    """
    status, version = response.status, response.header(b"etag") or ""
    is_node = response.header(NODE_ID) is not None
    has_version = VERSION.fullmatch(version) or not path.startswith(KEYS)
    if is_node and has_version and status == _SUCCESS[method]:
        return Reply(status, version, response.content, None)
    answer = node.judge(response, path)
    if answer.is_done or not is_node:
        raise node.foreign(path, f"HTTP {status} without the headers of a node")
    explanation = f"{node.url}{path}: {answer.explanation}"
    if status in _AGAIN:
        kind = _OverloadedError if status == _OVERLOADED else CommitFailedError
        raise kind(explanation, answer.outcome)
    # This request has done nothing. An earlier one with its number may have.
    outcome = NOT_DONE if status in SESSION_IS_OVER else answer.outcome
    return Reply(status, version, b"", CommitFailedError(explanation, outcome))
