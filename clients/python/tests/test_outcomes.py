"""The outcomes a node's refusals have: played, so that each can be had."""

import json
import socket
import threading
import time

import pytest
import requests

from local_cluster import free_ports
from played_node import HANG, Later, Then
from python_kv import (
    CommitFailedError,
    KVClient,
    KVStore,
    NetworkError,
    NoLeaderError,
    NotLeaderError,
)

DONE = (200, {"resp_status": 0, "key_found": True, "prev_value": "old"})
LIVES = (200, {"is_leader": True})
STORES = [KVStore, KVClient]


def failure(node, *answers, store=KVStore, timeout_ms=30_000):
    node.answers = list(answers)
    with pytest.raises(CommitFailedError) as raised:
        store(node.url, timeout_ms=timeout_ms).put("k", "v")
    return raised.value


def test_an_operation_is_one_request(node):
    wait = {"timeout_ms": 30_000}
    for kv, number in ((KVStore(node.url, server_id=4), 4), (KVClient(node.url), 0)):
        node.asked.clear()
        node.answers = [DONE, (200, {"resp_status": 0, "key_found": True, "value": "v"}), DONE]
        assert kv.put("k", "v") == ("old", True)
        assert kv.get("k") == ("v", True)
        assert kv.cas("k", "a", "b") == ("old", True)
        assert node.asked == [
            ("/put", {"key": "k", "value": "v", "id": number, **wait}),
            ("/get", {"key": "k", **wait}),
            ("/cas", {"key": "k", "compare_value": "a", "value": "b", "id": number, **wait}),
        ]


def asks_soon(monkeypatch, grace):
    """Signs of life are asked for after 0.2 s, and waited for as long as ``grace``: a busy machine
    is slow to give one."""
    monkeypatch.setattr("python_kv.node.ANSWER_TIMEOUT", 0.2 + grace)
    monkeypatch.setattr("python_kv.node.GRACE", grace)


def test_an_operation_that_takes_too_long_is_told_from_a_node_that_hangs(node, monkeypatch):
    asks_soon(monkeypatch, grace=10)
    for store in STORES:
        late = failure(node, HANG, LIVES, store=store, timeout_ms=100)
        assert late.is_unknown and not isinstance(late, NetworkError)
        assert "not committed within 0.1 s" in str(late)
        assert node.paths[-2:] == ["/put", "/is_leader"]
        assert isinstance(failure(node, HANG, None, store=store, timeout_ms=100), NetworkError)


def test_a_node_that_hangs_is_found_out_before_the_time_is_over(node, monkeypatch):
    asks_soon(monkeypatch, grace=0.1)
    # No sign of life: the minute of the operation is not waited for.
    error = failure(node, HANG, HANG, timeout_ms=60_000)
    assert isinstance(error, NetworkError) and error.is_unknown
    asks_soon(monkeypatch, grace=10)
    # Another server at the address is no sign of life either.
    error = failure(node, HANG, (200, b"It works!"), timeout_ms=60_000)
    assert isinstance(error, NetworkError) and error.is_unknown
    # A node that refuses lives.
    error = failure(node, HANG, (503, {"error": "full"}), timeout_ms=500)
    assert error.is_unknown and not isinstance(error, NetworkError)
    assert node.paths[-3:] == ["/put", "/is_leader", "/is_leader"]


def test_an_answer_that_comes_late_is_still_taken(node, monkeypatch):
    asks_soon(monkeypatch, grace=10)
    asked_for_life = threading.Event()
    node.answers = [Later(asked_for_life, DONE), Then(asked_for_life, LIVES)]
    assert KVStore(node.url).put("k", "v") == ("old", True)
    assert node.paths == ["/put", "/is_leader"]


def test_a_request_that_is_not_taken_was_not_done_even_if_the_node_lives(node, monkeypatch):
    monkeypatch.setattr("python_kv.node.ANSWER_TIMEOUT", 0.3)
    node.answers = [LIVES]
    # Nobody reads from the first connection: the request does not fit into its buffers.
    node.ignored = 1
    began = time.monotonic()
    with pytest.raises(NetworkError) as raised:
        KVStore(node.url, timeout_ms=3_600_000).put("k", "v" * (64 << 20))
    assert raised.value.outcome == "not_done" and "not sent whole" in str(raised.value)
    # The time of the operation is not waited for.
    assert time.monotonic() - began < 60


def test_interim_answers_are_passed_over(node):
    text = json.dumps(DONE[1])
    interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    whole = f"{interim}HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    node.answers = [whole.encode()]
    assert KVStore(node.url).put("k", "v") == ("old", True)


def test_an_answer_too_many_is_not_that_of_the_next_operation(node):
    text = json.dumps(DONE[1])
    other = text.replace("old", "bad")
    more = f"{text}HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{other}"
    for surplus in (more, more[:-5], f"{text}and more"):
        node.answers = [(200, surplus.encode(), {"Content-Length": len(text)}), DONE]
        kv = KVStore(node.url)
        assert kv.put("k", "v") == kv.put("k", "v") == ("old", True)


def test_a_connection_that_is_to_end_is_not_used_again(node):
    kv = KVStore(node.url)
    node.answers = [(*DONE, {"Connection": "close"})]
    for _ in range(3):
        kv.put("k", "v")
    assert node.connections == 3


def test_a_lost_answer_leaves_the_outcome_unknown(node):
    error = failure(node, None)
    assert error.is_unknown and isinstance(error, NetworkError)
    assert isinstance(error, requests.RequestException)


def test_what_was_never_sent_was_not_done():
    url = f"http://127.0.0.1:{free_ports(1)}"
    for kv in (KVStore(url), KVClient(url)):
        with pytest.raises(NetworkError) as raised:
            kv.put("k", "v")
        assert raised.value.outcome == "not_done" and "refused" in str(raised.value)


def test_a_node_that_knows_no_leader_is_told_from_one_that_does(node):
    refusal = {"resp_status": 1, "key_found": False, "prev_value": None}
    for store in STORES:
        kv = store(node.url)
        for answer in (refusal, {**refusal, "leader": None}):
            node.answers = [(200, answer)]
            with pytest.raises(NoLeaderError) as raised:
                kv.put("k", "v")
            assert raised.value.leader is None and raised.value.outcome == "not_done"
        node.answers = [(200, {**refusal, "leader": "127.0.0.1:8081"})]
        with pytest.raises(NotLeaderError) as raised:
            kv.put("k", "v")
        assert not isinstance(raised.value, NoLeaderError)
        assert raised.value.leader == "127.0.0.1:8081"


@pytest.mark.parametrize("store", STORES)
def test_refusals_tell_the_outcome(node, store):
    def failed(status, **more):
        return 200, {"resp_status": status, "key_found": False, "prev_value": None, **more}

    def outcome(*answers):
        return failure(node, *answers, store=store).outcome

    assert outcome(failed(2, outcome="not_done")) == "not_done"
    assert outcome(failed(2, outcome="unknown")) == "unknown"
    assert outcome(failed(2)) == "unknown"
    assert outcome(failed(3)) == "unknown"
    for status in (400, 403, 413, 429, 503):
        error = failure(node, (status, {"error": "no room"}), store=store)
        assert error.outcome == "not_done" and "no room" in str(error)
    assert outcome((500, {"error": "broken"})) == "unknown"
    told = {"type": "urn:raft-kv:problem:timeout", "detail": "late", "outcome": "not_done"}
    assert outcome((504, told)) == "not_done"


def test_nothing_is_sent_twice(node):
    for kv in (KVStore(node.url), KVClient(node.url)):
        node.asked.clear()
        node.answers = [None]
        with pytest.raises(NetworkError):
            kv.put("k", "v")
        assert len(node.asked) == 1


def test_a_half_written_request_was_not_done(node):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def read_some_and_break_off():
            connection, _ = listener.accept()
            connection.recv(100)
            connection.close()

        thread = threading.Thread(target=read_some_and_break_off)
        thread.start()
        kv = KVClient("127.0.0.1:%d" % listener.getsockname()[1])
        with pytest.raises(NetworkError) as raised:
            kv.put("k", "v" * (16 << 20))
        thread.join()
        assert raised.value.outcome == "not_done" and "not sent whole" in str(raised.value)


def test_programs_that_pass_no_text_are_told_before_anything_is_sent(node):
    for kv in (KVStore(node.url), KVClient(node.url)):
        for key, value in ((b"k", "v"), ("k", None), (1, "v")):
            with pytest.raises(TypeError):
                kv.put(key, value)
            with pytest.raises(TypeError):
                kv.cas(key, "", value)
    assert node.asked == []
