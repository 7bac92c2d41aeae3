"""Addresses as people write them, and nodes that never answer."""

import os
import socket
import threading
import time

import pytest

from local_cluster import free_ports
from played_node import HANG
from python_kv import CommitFailedError, KVClient, KVStore, NetworkError
from python_kv.address import parse
from test_outcomes import DONE

NO_ADDRESSES = [
    "",
    "http://",
    "http:",
    "://",
    "ftp://localhost:8080",
    "localhost:port",
    "http://localhost:99999",
    "http://localhost:0",
    "http://user@localhost:8080",
    "http://localhost:8080?x=1",
    "http://localhost:8080#x",
    "http://local host:8080",
    "http://localhost:8080\r\nX: y",
    "::1:8080",
    "http://[::1",
    "http://a..b:8080",
]


def test_addresses_are_read_as_people_write_them():
    assert parse("http://localhost:8080") == ("http", "localhost", 8080, "")
    assert parse("localhost:8080") == ("http", "localhost", 8080, "")
    assert parse("127.0.0.1:8080/") == ("http", "127.0.0.1", 8080, "")
    assert parse("example.org") == ("http", "example.org", 80, "")
    assert parse("HTTPS://example.org") == ("https", "example.org", 443, "")
    assert parse("http://[::1]:8080") == ("http", "::1", 8080, "")
    assert parse("[::1]:8080") == ("http", "::1", 8080, "")
    assert parse("http://gate:80/kv/ü/") == ("http", "gate", 80, "/kv/%C3%BC")
    assert parse("localhost:8080").host_field == "localhost:8080"
    assert parse("https://example.org").host_field == "example.org"
    assert parse("http://[fe80::1%eth0]").host_field == "[fe80::1]"
    assert parse("http://bücher:80").host_field == "xn--bcher-kva"
    assert KVStore("localhost:8080/").bridge_url == "http://localhost:8080"
    assert KVClient("http://localhost:8080/").server_url == "http://localhost:8080"


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_a_wrong_address_means_that_nothing_was_sent(address):
    for kv in (KVStore(address), KVClient(address)):
        with pytest.raises(NetworkError) as raised:
            kv.put("k", "v")
        assert raised.value.outcome == "not_done"
        assert address in str(raised.value) or repr(address) in str(raised.value)


def test_a_node_may_be_named_without_a_scheme(node):
    node.answers = [DONE]
    assert KVStore(node.address).put("k", "v") == ("old", True)


def test_a_node_may_have_an_address_of_version_6():
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    heads = []

    def serve():
        connection, _ = listener.accept()
        with connection:
            heads.append(connection.recv(65536))
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"is_leader": true}')

    with listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        assert KVStore(f"http://[::1]:{port}").is_leader()
        thread.join(5)
    assert f"Host: [::1]:{port}".encode() in heads[0]


#: What has not happened after this many seconds never will, however busy the machine is.
PATIENCE = 60


def seconds_until_it_fails(call, outcome):
    began = time.monotonic()
    with pytest.raises(CommitFailedError) as raised:
        call()
    assert raised.value.outcome == outcome, raised.value
    return time.monotonic() - began


def test_where_nothing_listens_the_answer_comes_at_once():
    url = f"http://127.0.0.1:{free_ports(1)}"
    # A client that waited would take an hour.
    hour = 3_600_000
    for kv in (KVStore(url, timeout_ms=hour), KVClient(url, timeout_ms=hour)):
        assert seconds_until_it_fails(lambda: kv.put("k", "v"), "not_done") < PATIENCE


SLOWLY = [b"H", b"T", b"T", b"P", b"/", b"1", b".", b"1", b" ", b"2", b"0", b"0", b" "] + [b"x"]
SLOW_BODY = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "]


@pytest.mark.parametrize("answer", [HANG, SLOWLY, SLOW_BODY], ids=["hangs", "head", "body"])
def test_a_node_that_does_not_come_to_an_end_is_given_up(node, answer, monkeypatch):
    monkeypatch.setattr("python_kv.node.GRACE", 0.1)
    for kv in (KVStore(node.url, timeout_ms=100), KVClient(node.url, timeout_ms=100)):
        node.answers = [answer]
        assert seconds_until_it_fails(lambda: kv.put("k", "v"), "unknown") < PATIENCE


def test_a_node_that_takes_no_connection_was_not_asked(monkeypatch):
    from python_kv import node as module

    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        url = "http://127.0.0.1:%d" % full.getsockname()[1]
        kv = KVStore(url, timeout_ms=3_600_000)
        assert seconds_until_it_fails(lambda: kv.put("k", "v"), "not_done") < PATIENCE
        for each in waiting:
            each.close()


def test_a_time_is_positive():
    for timeout_ms in (0, -1, float("nan")):
        with pytest.raises(ValueError):
            KVStore("http://localhost:8080", timeout_ms=timeout_ms)
        with pytest.raises(ValueError):
            KVClient("http://localhost:8080", timeout_ms=timeout_ms)


def test_a_connection_that_the_node_ended_is_replaced(node):
    kv = KVStore(node.url)
    ended = b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"is_leader": true}'
    node.answers = [ended]
    for _ in range(3):
        assert kv.is_leader()
        # The end of the connection arrives with the answer or a moment later.
        node.wait_for_an_end()
    assert node.connections == 3
    node.answers = [(200, {"is_leader": True})]
    for _ in range(3):
        assert kv.is_leader()
    assert node.connections == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_process_has_a_connection_of_its_own(node):
    kv = KVStore(node.url)
    node.answers = [(200, {"is_leader": True})]
    assert kv.is_leader()
    child = os.fork()
    if child == 0:
        os._exit(0 if kv.is_leader() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert kv.is_leader()
    assert node.connections == 2
