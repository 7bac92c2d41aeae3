"""The store in one request an operation."""

from typing import Any, Dict, Optional, Tuple

import requests

from .errors import NOT_DONE, UNKNOWN, CommitFailedError, NotLeaderError

#: How long an operation may take, in seconds.
_TIMEOUT = 30.0

_DONE = 0
_NOT_LEADER = 1


class KVClient:
    """A client of the node at ``server_url``, which must lead."""

    def __init__(self, server_url: str) -> None:
        self.server_url = server_url.rstrip("/")

    def get(self, key: str) -> Tuple[Optional[str], bool]:
        """Reads a value; returns ``(value, found)``."""
        reply = self._call("get", {"key": key})
        return reply.get("value"), bool(reply.get("key_found"))

    def put(self, key: str, value: str) -> Tuple[Optional[str], bool]:
        """Writes a value; returns ``(previous_value, was_found)``."""
        reply = self._call("put", {"key": key, "value": value})
        return reply.get("prev_value"), bool(reply.get("key_found"))

    def cas(self, key: str, compare_value: str, new_value: str) -> Tuple[Optional[str], bool]:
        """Writes ``new_value`` if the key has ``compare_value``; returns ``(old_value, was_found)``."""
        body = {"key": key, "compare_value": compare_value, "value": new_value}
        reply = self._call("cas", body)
        return reply.get("prev_value"), bool(reply.get("key_found"))

    def _call(self, operation: str, body: Dict[str, Any]) -> Dict[str, Any]:
        response = requests.post(f"{self.server_url}/{operation}", json=body, timeout=_TIMEOUT)
        response.raise_for_status()
        reply = response.json()
        status = reply["resp_status"]
        if status == _DONE:
            return reply
        if status == _NOT_LEADER:
            raise NotLeaderError(f"{self.server_url} does not lead", reply.get("leader"))
        outcome = NOT_DONE if reply.get("outcome") == NOT_DONE else UNKNOWN
        raise CommitFailedError(f"{operation} failed with status {status}", outcome)
