"""The store as one node of a cluster offers it.

Every operation is a command in the replicated log: it is submitted to the leader, and its result is
what applying it yielded, on the node that answers. Nothing is replayed here, so an operation costs
two requests whatever the length of the history, and any number of clients may write at once.
"""

import threading
import time
from typing import Any, Dict, Optional, Tuple

import requests

from .errors import NOT_DONE, UNKNOWN, CommitFailedError, NetworkError, NotLeaderError

#: How long a node may take to answer what it answers at once, in seconds.
_ANSWER_TIMEOUT = 5.0
#: The longest that a node waits for a commit in one request, in milliseconds.
_WAIT_MS_MAX = 60_000
#: What a wait may take beyond the time asked for, in seconds.
_WAIT_SLACK = 10.0
#: Pause before an overloaded node is asked again, in seconds.
_BUSY_PAUSE = 0.05


class KVStore:
    """A key-value store behind the node at ``url``.

    Operations have to go to the leader: another node raises :class:`NotLeaderError`. An object may be
    used by several threads; each has connections of its own.

    :param raft_bridge_url: the node, as ``http://localhost:8080``
    :param server_id: a number of the caller's choice, noted in the log with each command
    :param timeout_ms: how long an operation may take
    """

    def __init__(self, raft_bridge_url: str, server_id: int = 0, timeout_ms: int = 30_000) -> None:
        self.bridge_url = raft_bridge_url.rstrip("/")
        self.server_id = server_id
        self.timeout_ms = timeout_ms
        self._local = threading.local()

    def put(self, key: str, value: str) -> Tuple[Optional[str], bool]:
        """Writes a value; returns ``(previous_value, was_found)``.

        :raises NotLeaderError: not done; this node does not lead
        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        return self._execute("put", key, value=value)

    def get(self, key: str) -> Tuple[Optional[str], bool]:
        """Reads a value; returns ``(value, found)``. Never an outdated one.

        :raises NotLeaderError: this node does not lead
        :raises CommitFailedError: the read failed
        """
        return self._execute("get", key)

    def cas(self, key: str, compare_value: str, new_value: str) -> Tuple[Optional[str], bool]:
        """Writes ``new_value`` if the key has ``compare_value``; returns ``(old_value, was_found)``.

        It was written if and only if the answer is ``(compare_value, True)``.

        :raises NotLeaderError: not done; this node does not lead
        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        return self._execute("cas", key, value=new_value, compare_value=compare_value)

    def is_leader(self) -> bool:
        """Whether the node leads and serves.

        :raises requests.RequestException: it does not answer
        """
        response = self._session().get(f"{self.bridge_url}/is_leader", timeout=_ANSWER_TIMEOUT)
        response.raise_for_status()
        return bool(response.json()["is_leader"])

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
        result = commit.get("result")
        if not isinstance(result, dict):
            raise CommitFailedError("committed, but this node does not tell results", UNKNOWN)
        return result.get("value"), bool(result["found"])

    def _submit(self, command: Dict[str, Any]) -> Tuple[int, int]:
        """Hands a command to the leader; returns its number and its term."""
        response = self._post("/submit", command, _ANSWER_TIMEOUT)
        if response.status_code != 200:
            # A node that appended the command answers with its number, whatever comes later.
            outcome = (
                NOT_DONE if response.status_code < 500 or response.status_code == 503 else UNKNOWN
            )
            raise CommitFailedError(f"not accepted: {_explanation(response)}", outcome)
        reply = response.json()
        if not reply.get("is_leader"):
            leader = reply.get("leader")
            hint = f"; {leader} does" if leader else ""
            raise NotLeaderError(f"{self.bridge_url} does not lead{hint}", leader)
        if "term" not in reply:
            raise CommitFailedError("accepted, but this node does not tell terms", UNKNOWN)
        return reply["log_index"], reply["term"]

    def _wait(self, index: int, term: int, deadline: float) -> Dict[str, Any]:
        """Waits until the command is applied; the term tells it from another's under its number."""
        while True:
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            wait_ms = min(left_ms, _WAIT_MS_MAX)
            request = {"log_index": index, "term": term, "timeout_ms": wait_ms}
            response = self._post("/wait_commit", request, wait_ms / 1000 + _WAIT_SLACK)
            status = response.status_code
            if status == 200:
                return response.json()
            if status == 409:
                raise CommitFailedError(
                    "another leader took over before it was committed", NOT_DONE
                )
            if status not in (408, 429, 503) or time.monotonic() >= deadline:
                raise CommitFailedError(f"no commit seen: {_explanation(response)}", UNKNOWN)
            if status != 408:
                time.sleep(_BUSY_PAUSE)

    def _post(self, path: str, body: Dict[str, Any], timeout: float) -> requests.Response:
        try:
            return self._session().post(f"{self.bridge_url}{path}", json=body, timeout=timeout)
        except requests.RequestException as error:
            # After a submit, a command that waits may be committed whatever happens to us.
            never_sent = path == "/submit" and _never_sent(error)
            outcome = NOT_DONE if never_sent else UNKNOWN
            raise NetworkError(f"{self.bridge_url}{path}: {error}", outcome) from error

    def _session(self) -> requests.Session:
        """This thread's connections: ``requests`` promises nothing for several threads."""
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
        return session


def _never_sent(error: requests.RequestException) -> bool:
    """Whether no connection was made at all."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    # Named, not imported: urllib3 is a part of requests that has moved before.
    return type(reason).__name__ in ("NewConnectionError", "NameResolutionError")


def _explanation(response: requests.Response) -> str:
    """What the node says about its refusal."""
    try:
        reply = response.json()
        said = reply.get("error") or reply.get("detail") or reply.get("title")
    except (ValueError, AttributeError):
        said = None
    return f"{said or response.reason} ({response.status_code})"
