"""The store as one node of a cluster offers it.

Every operation is a command in the replicated log: it is submitted to the leader, and its result is
what applying it yielded, on the node that answers. Nothing is replayed here, so an operation costs
two requests whatever the length of the history, and any number of clients may write at once.
"""

import time
from typing import Any, Dict, Optional, Tuple

from .errors import (
    NOT_DONE,
    UNKNOWN,
    CommitFailedError,
    NetworkError,
    NoLeaderError,
    NotLeaderError,
)
from .node import ANSWER_TIMEOUT, GRACE, Node, check_texts, check_timeout, number, text_or_none

#: The longest that a node waits for a commit in one request, in milliseconds.
_WAIT_MS_MAX = 60_000
#: Pause before a node that does not know yet, or is overloaded, is asked again, in seconds.
_BUSY_PAUSE = 0.05


class KVStore:
    """A key-value store behind the node at ``url``.

    Operations have to go to the leader: another node raises :class:`NotLeaderError`. An object may be
    used by several threads; each has a connection of its own.

    :param raft_bridge_url: the node, as ``http://localhost:8080`` or ``localhost:8080``
    :param server_id: a number of the caller's choice, noted in the log with each command
    :param timeout_ms: how long an operation may take until it is committed. It ends at most a second
        later. The node has to accept it, or answer :meth:`is_leader`, within 5 s of this time.
    """

    def __init__(self, raft_bridge_url: str, server_id: int = 0, timeout_ms: int = 30_000) -> None:
        check_timeout(timeout_ms)
        self._node = Node(raft_bridge_url)
        self.bridge_url = self._node.url
        self.server_id = server_id
        self.timeout_ms = timeout_ms

    def put(self, key: str, value: str) -> Tuple[Optional[str], bool]:
        """Writes a value; returns ``(previous_value, was_found)``.

        :raises NotLeaderError: not done; this node does not lead
        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        check_texts(key=key, value=value)
        return self._execute("put", key, value=value)

    def get(self, key: str) -> Tuple[Optional[str], bool]:
        """Reads a value; returns ``(value, found)``. Never an outdated one.

        :raises NotLeaderError: this node does not lead
        :raises CommitFailedError: the read failed
        """
        check_texts(key=key)
        return self._execute("get", key)

    def cas(self, key: str, compare_value: str, new_value: str) -> Tuple[Optional[str], bool]:
        """Writes ``new_value`` if the key has ``compare_value``; returns ``(old_value, was_found)``.

        It was written if and only if the answer is ``(compare_value, True)``.

        :raises NotLeaderError: not done; this node does not lead
        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        check_texts(key=key, compare_value=compare_value, new_value=new_value)
        return self._execute("cas", key, value=new_value, compare_value=compare_value)

    def is_leader(self) -> bool:
        """Whether the node leads and serves.

        :raises NetworkError: it does not answer, or something else than a node does
        """
        answer = self._node.ask("GET", "/is_leader", None, ANSWER_TIMEOUT)
        if not answer.is_done:
            raise NetworkError(f"{self.bridge_url}: {answer.explanation}", NOT_DONE)
        leads = answer.fields.get("is_leader")
        if not isinstance(leads, bool):
            raise self._node.foreign("/is_leader", "its is_leader is neither true nor false")
        return leads

    def _execute(
        self, kind: str, key: str, value: str = "", compare_value: str = ""
    ) -> Tuple[Optional[str], bool]:
        deadline = time.monotonic() + self.timeout_ms / 1000
        command = {
            "kind": kind,
            "key": key,
            "value": value,
            "compare_value": compare_value,
            "id": self.server_id,
        }
        index, term = self._submit(command)
        commit = self._wait(index, term, deadline)
        return self._result(commit, index, term, command)

    def _submit(self, command: Dict[str, Any]) -> Tuple[int, int]:
        """Hands a command to the leader; returns its number and its term."""
        seconds = min(ANSWER_TIMEOUT, self.timeout_ms / 1000)
        answer = self._node.ask("POST", "/submit", command, seconds)
        if not answer.is_done:
            # A node that appended the command answers with its number, whatever comes later.
            raise CommitFailedError(f"not accepted: {answer.explanation}", answer.outcome)
        index: Any = answer.fields.get("log_index")
        term: Any = answer.fields.get("term")
        leads, leader = answer.fields.get("is_leader"), answer.fields.get("leader")
        if leads is False and index == -1 and text_or_none(leader):
            raise not_leader(self.bridge_url, leader)
        if leads is True and number(index) and term is None:
            raise self._node.foreign("/submit", "it accepts the operation without a term")
        if leads is True and number(index) and number(term):
            return index, term
        raise self._node.foreign("/submit", "neither a number in the log nor a refusal")

    def _wait(self, index: int, term: int, deadline: float) -> Dict[str, Any]:
        """Waits until the command is applied; the term tells it from another's under its number."""
        while True:
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            wait_ms = min(left_ms, _WAIT_MS_MAX)
            request = {"log_index": index, "term": term, "timeout_ms": wait_ms}
            try:
                answer = self._node.ask("POST", "/wait_commit", request, wait_ms / 1000 + GRACE)
            except NetworkError as error:
                # The command is in the leader's log, whatever happens to this request.
                error.outcome = UNKNOWN
                raise
            if answer.is_done:
                return answer.fields
            if answer.status == 409:
                raise CommitFailedError(
                    "another leader took over before it was committed", NOT_DONE
                )
            if answer.status not in (408, 429, 503) or time.monotonic() >= deadline:
                raise CommitFailedError(f"no commit seen: {answer.explanation}", UNKNOWN)
            time.sleep(_BUSY_PAUSE)

    def _result(
        self, commit: Dict[str, Any], index: int, term: int, command: Dict[str, Any]
    ) -> Tuple[Optional[str], bool]:
        """The result of our command, once the commit is seen to be that of our command."""
        if (commit.get("index"), commit.get("term")) != (index, term):
            raise self._node.foreign("/wait_commit", f"another commit than {index} of term {term}")
        committed = commit.get("command")
        # Fields that a kind of command has no use for may be left out.
        if not isinstance(committed, dict) or any(
            committed.get(name, "") != given for name, given in command.items()
        ):
            raise self._node.foreign("/wait_commit", "another command than the one submitted")
        result = commit.get("result")
        if not isinstance(result, dict):
            raise self._node.foreign("/wait_commit", "a commit without a result")
        found, value = result.get("found"), result.get("value")
        if not text_or_none(value) or found is not (value is not None):
            raise self._node.foreign("/wait_commit", "its result makes no sense")
        return value, found


def not_leader(url: str, leader: Optional[str]) -> NotLeaderError:
    """The error for a node that does not lead."""
    if leader is None:
        return NoLeaderError(f"{url} does not lead and knows no leader; try again in a moment")
    return NotLeaderError(f"{url} does not lead; {leader} does", leader)
