"""Many keys at once: writes in batches, reads without waiting for the answer to each."""

import json
import time
from collections import deque
from typing import Deque, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import quote

from .connection import NoHttpError, Response
from .errors import UNKNOWN, CommitFailedError
from .node import ANSWER_TIMEOUT, KEYS, NODE_ID, VERSION, Node, check_texts

#: The most operations in one batch. A node takes 1024; half of them are as fast.
_BATCH_OPERATIONS = 512
#: The most bytes of JSON in one batch of more than one operation. A node takes 4 MiB of texts.
_BATCH_BYTES = 1 << 20
#: The most reads under way, in number and in bytes. The bytes fit into the buffer of any socket:
#: a node that waits for us to read its answers does not keep us from that.
_READS = 128
_READS_BYTES = 16 << 10

_BATCH = "/v1/batch"
_NOT_FOUND = "urn:raft-kv:problem:not-found"


def put(node: Node, values: Mapping[str, str], seconds: float) -> None:
    """Writes many values; see :meth:`python_kv.KVStore.put_many`."""
    operations = []
    for key, value in values.items():
        check_texts(key=key, value=value)
        _check(key)
        value.encode()
        operations.append(json.dumps({"op": "put", "key": key, "value": value}))
    written = 0
    for batch in _batches(operations):
        try:
            _put_batch(node, batch, seconds)
        except CommitFailedError as error:
            if written:
                error.outcome = UNKNOWN
            raise
        written += len(batch)


def _batches(operations: List[str]) -> Iterator[List[str]]:
    batch: List[str] = []
    size = 0
    for operation in operations:
        if batch and (len(batch) == _BATCH_OPERATIONS or size + len(operation) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(operation)
        # Never less than the bytes of the texts: JSON in ASCII makes them longer.
        size += len(operation)
    if batch:
        yield batch


def _put_batch(node: Node, operations: List[str], seconds: float) -> None:
    content = f'{{"operations": [{", ".join(operations)}]}}'.encode()
    answer = node.judge(node.execute("POST", _BATCH, content, seconds), _BATCH)
    if not answer.is_done:
        raise CommitFailedError(f"put_many refused: {answer.explanation}", answer.outcome)
    results = answer.fields.get("results")
    if not isinstance(results, list) or len(results) != len(operations):
        raise node.foreign(_BATCH, "its results are not those of the operations")
    for result in results:
        if not isinstance(result, dict) or result.get("outcome") != "done":
            raise node.foreign(_BATCH, "a put without a condition that is not done")


def get(node: Node, keys: Iterable[str], seconds: float) -> Dict[str, str]:
    """Reads many keys; see :meth:`python_kv.KVStore.get_many`.

    The first read is linearizable: when its answer is there, the node has applied all that was
    committed before the call. The others follow on the same connection and take the state of the
    node as it is. What a node has applied only grows while it runs, and a connection ends with it.
    So no read sees less than the first, and each sees a state that was the cluster's during the
    call.
    """
    waiting: Deque[Tuple[str, str]] = deque()
    for key in dict.fromkeys(keys):
        check_texts(key=key)
        _check(key)
        waiting.append((key, f"{KEYS}{quote(key, safe='')}"))
    found: Dict[str, str] = {}
    while waiting:
        key, path = waiting.popleft()
        response = node.execute("GET", path, None, seconds, "")
        _take(node, key, response, None, found)
        identity = response.header(NODE_ID)
        while waiting and response.stays:
            try:
                response = _read_some(node, waiting, identity, found)
            except BaseException:
                # Answers may still be under way.
                node.drop()
                raise
            if not response.stays:
                node.drop()
    return found


def _read_some(
    node: Node, waiting: "Deque[Tuple[str, str]]", identity: Optional[str], found: Dict[str, str]
) -> Response:
    """Reads the next keys from the state of the node as it is; returns the last answer."""
    asked: List[Tuple[str, str]] = []
    request = b""
    while waiting and len(asked) < _READS:
        more = node.short_request(f"{waiting[0][1]}?consistency=stale")
        if asked and len(request) + len(more) > _READS_BYTES:
            break
        request += more
        asked.append(waiting.popleft())
    connection = node.kept()
    assert connection is not None, "the last answer leaves it open"
    deadline = time.monotonic() + ANSWER_TIMEOUT
    try:
        connection.send(request, deadline)
        answers = [connection.receive(deadline) for _ in asked]
    except (OSError, NoHttpError) as error:
        raise node.lost(KEYS, error) from error
    for (key, _), answer in zip(asked, answers):
        _take(node, key, answer, identity, found)
    return answers[-1]


def _take(
    node: Node, key: str, response: Response, identity: Optional[str], found: Dict[str, str]
) -> None:
    """Notes what an answer says about a key, if it is the answer of this node."""
    node_id = response.header(NODE_ID)
    if node_id is not None and identity in (None, node_id):
        if response.status == 200 and VERSION.fullmatch(response.header(b"etag") or ""):
            found[key] = response.content.decode("utf-8", "replace")
            return
        answer = node.judge(response, KEYS)
        if answer.status == 404 and answer.fields.get("type") == _NOT_FOUND:
            return
        if not answer.is_done:
            raise CommitFailedError(f"get_many refused: {answer.explanation}", answer.outcome)
    raise node.foreign(KEYS, f"HTTP {response.status}, node {node_id}, a value without a version")


def _check(key: str) -> None:
    if not key:
        raise ValueError("a key of put_many and get_many is not empty")
    # A text with half a character has no bytes.
    key.encode()
