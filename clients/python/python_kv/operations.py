"""The operations of the store, each in one request to the leader."""

import json
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

from . import many
from .errors import NOT_DONE, UNKNOWN, CommitFailedError, NoLeaderError, NotLeaderError
from .node import Node, check_texts, check_timeout, text_or_none

_DONE = 0
_NOT_LEADER = 1
_COMMIT_FAILED = 2
_DUPLICATE = 3


class Operations:
    """The operations on the node at ``address``. May be used by several threads."""

    def __init__(self, address: str, server_id: int, timeout_ms: int) -> None:
        check_timeout(timeout_ms)
        self._node = Node(address)
        self.server_id = server_id
        self.timeout_ms = timeout_ms

    def put(self, key: str, value: str) -> Tuple[Optional[str], bool]:
        """Writes a value; returns ``(previous_value, was_found)``.

        :raises NotLeaderError: not done; this node does not lead
        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        check_texts(key=key, value=value)
        body = {"key": key, "value": value, "id": self.server_id}
        return self._execute("/put", body, "prev_value")

    def get(self, key: str) -> Tuple[Optional[str], bool]:
        """Reads a value; returns ``(value, found)``. Never an outdated one.

        :raises NotLeaderError: this node does not lead
        :raises CommitFailedError: the read failed
        """
        check_texts(key=key)
        return self._execute("/get", {"key": key}, "value")

    def cas(self, key: str, compare_value: str, new_value: str) -> Tuple[Optional[str], bool]:
        """Compares and swaps: writes ``new_value`` if the key has ``compare_value``.

        It returns ``(old_value, was_found)``. The new value was written if and only if that is
        ``(compare_value, True)``.

        :raises NotLeaderError: not done; this node does not lead
        :raises CommitFailedError: not done, or unknown: see its ``outcome``
        """
        check_texts(key=key, compare_value=compare_value, new_value=new_value)
        body = {
            "key": key,
            "compare_value": compare_value,
            "value": new_value,
            "id": self.server_id,
        }
        return self._execute("/cas", body, "prev_value")

    def put_many(self, values: Mapping[str, str]) -> None:
        """Writes many values, several hundred in a request. It works on every node.

        Not at one moment: the values of one request are written together, and the requests follow
        each other. ``timeout_ms`` is for each of them.

        :raises ValueError: a key is empty, or no text of Unicode
        :raises CommitFailedError: the outcome is ``"not_done"`` if no value was written, otherwise
            ``"unknown"``: some were written or may have been
        """
        many.put(self._node, values, self.timeout_ms / 1000)

    def get_many(self, keys: Iterable[str]) -> Dict[str, str]:
        """Reads many keys; returns the values of those that are there. It works on every node.

        Not at one moment: each value is one that the key had during the call. ``timeout_ms`` is for
        each few dozen of them.

        :raises ValueError: a key is empty, or no text of Unicode
        :raises CommitFailedError: the read failed
        """
        return many.get(self._node, keys, self.timeout_ms / 1000)

    def _execute(
        self, path: str, body: Dict[str, Any], field: str
    ) -> Tuple[Optional[str], bool]:
        # The node waits as long as this client does.
        content = json.dumps({**body, "timeout_ms": self.timeout_ms}).encode()
        response = self._node.execute("POST", path, content, self.timeout_ms / 1000)
        answer = self._node.judge(response, path)
        if not answer.is_done:
            raise CommitFailedError(f"{path[1:]} refused: {answer.explanation}", answer.outcome)
        fields = answer.fields
        status, found = fields.get("resp_status"), fields.get("key_found")
        # Every answer has all three fields: another server is not taken for a node.
        if type(status) is not int or not isinstance(found, bool) or field not in fields:
            raise self._node.foreign(path, f"resp_status, key_found or {field} is missing")
        value, leader = fields[field], fields.get("leader")
        if status == _DONE and text_or_none(value) and found is (value is not None):
            return value, found
        if status == _NOT_LEADER and text_or_none(leader):
            raise _not_leader(self._node.url, leader)
        if status in (_COMMIT_FAILED, _DUPLICATE):
            outcome = NOT_DONE if fields.get("outcome") == NOT_DONE else UNKNOWN
            what = "not committed" if status == _COMMIT_FAILED else f"status {status}"
            raise CommitFailedError(f"{path[1:]} failed: {what}", outcome)
        raise self._node.foreign(path, f"its resp_status {status} makes no sense")


def _not_leader(url: str, leader: Optional[str]) -> NotLeaderError:
    if leader is None:
        return NoLeaderError(f"{url} does not lead and knows no leader; try again in a moment")
    return NotLeaderError(f"{url} does not lead; {leader} does", leader)
