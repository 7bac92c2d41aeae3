"""What a KVStore makes of a node's refusals: played by a small server, so that each can be had."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from local_cluster import free_ports
from python_kv import CommitFailedError, KVStore, NetworkError, NotLeaderError

ACCEPTED = (200, {"log_index": 7, "is_leader": True, "term": 3})
DONE = (200, {"index": 7, "term": 3, "command": {}, "result": {"found": True, "value": "old"}})


@pytest.fixture
def node():
    """A node that gives the answers it was told to, in turn, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.asked.append((self.path, json.loads(body)))
            answer = self.server.answers.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, reply = answer
            text = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def failure(node, *answers):
    node.answers = list(answers)
    with pytest.raises(CommitFailedError) as raised:
        KVStore(node.url, timeout_ms=200).put("k", "v")
    return raised.value


def test_a_put_is_a_submit_and_a_wait_for_its_term(node):
    node.answers = [ACCEPTED, DONE]
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
    error = failure(node, ACCEPTED, *[(408, {"error": "time over"})] * 2000)
    assert error.is_unknown and "time over" in str(error)


def test_a_wait_refused_for_a_moment_is_asked_again(node):
    node.answers = [ACCEPTED, (429, {"error": "too many waiters"}), DONE]
    assert KVStore(node.url).put("k", "v") == ("old", True)


def test_a_lost_answer_leaves_the_outcome_unknown(node):
    error = failure(node, None)
    assert error.is_unknown and isinstance(error, NetworkError)
    assert isinstance(error, requests.RequestException)
    assert failure(node, ACCEPTED, None).is_unknown


def test_what_was_never_sent_was_not_done():
    with pytest.raises(NetworkError) as raised:
        KVStore(f"http://127.0.0.1:{free_ports(1)}").put("k", "v")
    assert raised.value.outcome == "not_done"
