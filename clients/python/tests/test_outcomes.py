"""The outcomes a node's refusals have: played, so that each can be had."""

import socket
import threading

import pytest
import requests

from local_cluster import free_ports
from python_kv import (
    CommitFailedError,
    KVClient,
    KVStore,
    NetworkError,
    NoLeaderError,
    NotLeaderError,
)

ACCEPTED = (200, {"log_index": 7, "is_leader": True, "term": 3})
COMMAND = {"kind": "put", "key": "k", "value": "v", "id": 0}
RESULT = {"found": True, "value": "old"}
DONE = (200, {"index": 7, "term": 3, "command": COMMAND, "result": RESULT})


def failure(node, *answers):
    node.answers = list(answers)
    with pytest.raises(CommitFailedError) as raised:
        KVStore(node.url, timeout_ms=200).put("k", "v")
    return raised.value


def test_a_put_is_a_submit_and_a_wait_for_its_term(node):
    done = {**DONE[1], "command": {**COMMAND, "id": 4}}
    node.answers = [ACCEPTED, (200, done)]
    assert KVStore(node.url, server_id=4).put("k", "v") == ("old", True)
    (submit, command), (wait, waited) = node.asked
    assert submit == "/submit" and wait == "/wait_commit"
    assert command == {"kind": "put", "key": "k", "value": "v", "compare_value": "", "id": 4}
    assert (waited["log_index"], waited["term"]) == (7, 3)


def test_a_follower_is_an_error_that_names_the_leader(node):
    node.answers = [(200, {"log_index": -1, "is_leader": False, "leader": "127.0.0.1:8081"})]
    with pytest.raises(NotLeaderError) as raised:
        KVStore(node.url).get("k")
    assert raised.value.leader == "127.0.0.1:8081"


def test_a_command_whose_place_another_leader_took_was_not_done(node):
    assert failure(node, ACCEPTED, (409, {"error": "superseded"})).outcome == "not_done"


def test_an_overloaded_node_has_not_done_what_it_refuses(node):
    assert failure(node, (429, {"error": "busy"})).outcome == "not_done"
    assert failure(node, (503, {"error": "no quorum"})).outcome == "not_done"


def test_a_wait_that_ends_without_news_leaves_the_outcome_unknown(node):
    error = failure(node, ACCEPTED, (408, {"error": "time over"}))
    assert error.is_unknown and "time over" in str(error)
    # It is asked again, but not without a pause.
    assert 2 <= len(node.asked) < 10


def test_a_wait_refused_for_a_moment_is_asked_again(node):
    node.answers = [ACCEPTED, (429, {"error": "too many waiters"}), DONE]
    assert KVStore(node.url).put("k", "v") == ("old", True)


def test_a_lost_answer_leaves_the_outcome_unknown(node):
    error = failure(node, None)
    assert error.is_unknown and isinstance(error, NetworkError)
    assert isinstance(error, requests.RequestException)
    assert failure(node, ACCEPTED, None).is_unknown


def test_what_was_never_sent_was_not_done():
    url = f"http://127.0.0.1:{free_ports(1)}"
    for kv in (KVStore(url), KVClient(url)):
        with pytest.raises(NetworkError) as raised:
            kv.put("k", "v")
        assert raised.value.outcome == "not_done" and "refused" in str(raised.value)


def test_a_node_that_knows_no_leader_is_told_from_one_that_does(node):
    refusal = {"resp_status": 1, "key_found": False, "prev_value": None}
    for kv, answer in (
        (KVStore(node.url), {"log_index": -1, "is_leader": False, "leader": None}),
        (KVClient(node.url), refusal),
    ):
        node.answers = [(200, answer)]
        with pytest.raises(NoLeaderError) as raised:
            kv.put("k", "v")
        assert raised.value.leader is None and raised.value.outcome == "not_done"
        node.answers = [(200, {**answer, "leader": "h:1"})]
        with pytest.raises(NotLeaderError) as raised:
            kv.put("k", "v")
        assert not isinstance(raised.value, NoLeaderError) and raised.value.leader == "h:1"


def client_failure(node, *answers):
    node.answers = list(answers)
    with pytest.raises(CommitFailedError) as raised:
        KVClient(node.url).put("k", "v")
    return raised.value


def test_one_request_operations_tell_their_outcome(node):
    def failed(status, **more):
        return 200, {"resp_status": status, "key_found": False, "prev_value": None, **more}

    assert client_failure(node, failed(2, outcome="not_done")).outcome == "not_done"
    assert client_failure(node, failed(2, outcome="unknown")).outcome == "unknown"
    assert client_failure(node, failed(2)).outcome == "unknown"
    assert client_failure(node, failed(3)).outcome == "unknown"
    for status in (400, 403, 413, 429, 503):
        error = client_failure(node, (status, {"error": "no room"}))
        assert error.outcome == "not_done" and "no room" in str(error)
    assert client_failure(node, (500, {"error": "broken"})).outcome == "unknown"
    told = {"type": "urn:raft-kv:problem:timeout", "detail": "late", "outcome": "not_done"}
    assert client_failure(node, (504, told)).outcome == "not_done"
    lost = client_failure(node, None)
    assert lost.is_unknown and isinstance(lost, requests.RequestException)


def test_nothing_is_sent_twice(node):
    for kv in (KVStore(node.url), KVClient(node.url)):
        node.asked.clear()
        node.answers = [None]
        with pytest.raises(NetworkError):
            kv.put("k", "v")
        assert len(node.asked) == 1


def test_a_refusal_to_wait_leaves_the_outcome_unknown(node):
    assert failure(node, ACCEPTED, (410, {"error": "old", "first_index": 9})).is_unknown
    assert failure(node, ACCEPTED, (307, b"", {"Location": "/x"})).is_unknown


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
