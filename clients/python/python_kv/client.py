"""The store in one request an operation."""

from typing import Any, Dict, Optional, Tuple

from .errors import NOT_DONE, UNKNOWN, CommitFailedError
from .kvstore import not_leader
from .node import GRACE, Node, check_texts, check_timeout, text_or_none

_DONE = 0
_NOT_LEADER = 1
_COMMIT_FAILED = 2
_DUPLICATE = 3


class KVClient:
    """A client of the node at ``server_url``, which must lead.

    It raises the same errors as :class:`python_kv.KVStore`, and may be used by several threads.

    :param server_url: the node, as ``http://localhost:8080`` or ``localhost:8080``
    :param timeout_ms: how long an operation may take. It ends at most a second later.
    """

    def __init__(self, server_url: str, timeout_ms: int = 30_000) -> None:
        check_timeout(timeout_ms)
        self._node = Node(server_url)
        self.server_url = self._node.url
        self.timeout_ms = timeout_ms

    def get(self, key: str) -> Tuple[Optional[str], bool]:
        """Reads a value; returns ``(value, found)``."""
        check_texts(key=key)
        return self._call("get", {"key": key}, "value")

    def put(self, key: str, value: str) -> Tuple[Optional[str], bool]:
        """Writes a value; returns ``(previous_value, was_found)``."""
        check_texts(key=key, value=value)
        return self._call("put", {"key": key, "value": value}, "prev_value")

    def cas(self, key: str, compare_value: str, new_value: str) -> Tuple[Optional[str], bool]:
        """Writes ``new_value`` if the key has ``compare_value``; returns ``(old_value, was_found)``."""
        check_texts(key=key, compare_value=compare_value, new_value=new_value)
        body = {"key": key, "compare_value": compare_value, "value": new_value}
        return self._call("cas", body, "prev_value")

    def _call(
        self, operation: str, body: Dict[str, Any], field: str
    ) -> Tuple[Optional[str], bool]:
        path = f"/{operation}"
        answer = self._node.ask("POST", path, body, self.timeout_ms / 1000 + GRACE)
        if not answer.is_done:
            raise CommitFailedError(f"{operation} refused: {answer.explanation}", answer.outcome)
        fields = answer.fields
        status, found = fields.get("resp_status"), fields.get("key_found")
        # Every answer has all three fields: another server is not taken for a node.
        if type(status) is not int or not isinstance(found, bool) or field not in fields:
            raise self._node.foreign(path, f"resp_status, key_found or {field} is missing")
        value, leader = fields[field], fields.get("leader")
        if status == _DONE and text_or_none(value) and found is (value is not None):
            return value, found
        if status == _NOT_LEADER and text_or_none(leader):
            raise not_leader(self.server_url, leader)
        if status in (_COMMIT_FAILED, _DUPLICATE):
            outcome = NOT_DONE if fields.get("outcome") == NOT_DONE else UNKNOWN
            raise CommitFailedError(f"{operation} failed with status {status}", outcome)
        raise self._node.foreign(path, f"its resp_status {status} makes no sense")
