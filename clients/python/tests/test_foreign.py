"""Servers that are no node of ours: whatever they answer, no operation is said to be done."""

import json
import os
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest
import requests

from python_kv import AnswerError, KVClient, KVStore
from test_outcomes import DONE

HTML = {"Content-Type": "text/html"}

#: Whatever a call expects, these are not it.
FOREIGN = {
    "html": (200, b"<html>It works!</html>", HTML),
    "no content": (204, b""),
    "empty": (200, b""),
    "another object": (200, {"ok": True, "status": "success"}),
    "nothing in it": (200, {}),
    "a list": (200, [1]),
    "null": (200, b"null"),
    "cut off": (200, b'{"resp_status": 0, "log_index": 0, "is_lead'),
    "not UTF-8": (200, b'{"\xff": 1}'),
    "deep": (200, b"[" * 100_000),
    "a long number": (200, b'{"log_index": ' + b"9" * 10_000 + b"}"),
    "page not found": (404, b"<h1>404</h1>", HTML),
    "not allowed": (501, b"unsupported", HTML),
    "a gateway": (503, b"upstream", HTML),
    "a gateway's time": (504, b"upstream", HTML),
    "another API": (422, {"message": "unknown field"}),
    "a choice": (300, {"error": "choose"}),
    "created": (201, {"resp_status": 0, "key_found": False, "prev_value": None, "value": None}),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "an endless line": b"HTTP/1.1 200 " + b"x" * 100_000,
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
}

CALLS = {
    "put": lambda url: KVStore(url).put("k", "v"),
    "get": lambda url: KVStore(url).get("k"),
    "cas": lambda url: KVStore(url).cas("k", "a", "b"),
    "is_leader": lambda url: KVStore(url).is_leader(),
    "client put": lambda url: KVClient(url).put("k", "v"),
    "client get": lambda url: KVClient(url).get("k"),
    "client cas": lambda url: KVClient(url).cas("k", "a", "b"),
}


def answer_error(call, node, *answers):
    node.answers = list(answers)
    with pytest.raises(AnswerError) as raised:
        call(node.url)
    error = raised.value
    assert isinstance(error, requests.RequestException)
    assert node.url in str(error)
    assert len(str(error)) < 400
    return error


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_foreign_answer_is_no_success_and_proves_nothing(node, call):
    for name, answer in FOREIGN.items():
        error = answer_error(call, node, answer)
        assert error.is_unknown and "not the answer of a raft-kv node" in str(error), name


@pytest.mark.parametrize("call", [CALLS["put"], CALLS["client put"]])
def test_an_answer_has_exact_types(node, call):
    good = DONE[1]
    bad = [{**good, "resp_status": v} for v in (None, "0", False, 0.0, 4, -1)]
    bad += [{**good, "key_found": v} for v in (None, "true", 1, False)]
    bad += [{**good, "prev_value": v} for v in (None, 1, ["old"])]
    bad += [{name: v for name, v in good.items() if name != field} for field in good]
    bad += [{"resp_status": 0, "key_found": True, "value": "of a get"}]
    bad += [{**good, "resp_status": 1, "leader": 8080}]
    for answer in bad:
        assert answer_error(call, node, (200, answer)).is_unknown
    node.answers = [(200, good)]
    assert call(node.url) == ("old", True)


def test_truth_is_not_guessed(node):
    for value in (None, "true", 1):
        answer_error(CALLS["is_leader"], node, (200, {"is_leader": value}))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_redirect_is_followed(node, call, status):
    node.asked.clear()
    answer = (status, b"", {"Location": f"{node.url}/elsewhere"})
    error = answer_error(call, node, answer)
    assert len(node.asked) == 1
    # Only these two promise that nothing was done here.
    assert (error.outcome == "not_done") == (status in (307, 308))
    assert "/elsewhere" in str(error)


def test_an_answer_cut_off_is_lost(node):
    text = json.dumps({"resp_status": 0, "key_found": True, "prev_value": "old"})
    for raw in (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(text) + 9}\r\n\r\n{text}",
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len(text):x}\r\n{text}\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "",
    ):
        node.answers = [raw.encode() or None]
        with pytest.raises(requests.RequestException) as raised:
            CALLS["client put"](node.url)
        assert raised.value.is_unknown
    # Without a length the end of the connection is the end of the answer.
    node.answers = [f"HTTP/1.0 200 OK\r\n\r\n{text}".encode()]
    assert CALLS["client put"](node.url) == ("old", True)


def test_the_web_server_of_python_is_no_node():
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, call in CALLS.items():
            with pytest.raises(AnswerError):
                call(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_neither_proxies_nor_passwords_of_the_environment_are_used(
    cluster, node, monkeypatch, tmp_path
):
    kv = KVStore(cluster.leader_url())
    node.answers = [FOREIGN["html"]]
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, node.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", os.fspath(netrc))
    assert kv.is_leader() and kv.put("proxy", "none") == (None, False)
    assert node.asked == []


def test_an_endless_answer_is_given_up(node, monkeypatch):
    from python_kv import connection as module

    monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 1 << 20)
    error = answer_error(CALLS["client put"], node, (200, b" " * (2 << 20)))
    assert "longer than" in str(error)
