"""Many keys at once."""

import random
import threading

import pytest

from played_node import Later
from python_kv import AnswerError, CommitFailedError, KVClient, KVStore, NetworkError
from python_kv import many
from python_kv.connection import Connection

NODE = {"raft-kv-node": "3"}
#: An answer with a value, and one without, as a node gives them.
FOUND = (200, b"v", {**NODE, "ETag": '"7"', "Content-Type": "application/octet-stream"})
ABSENT = (404, {"type": "urn:raft-kv:problem:not-found", "detail": "no such key"}, NODE)


def done(operations):
    return 200, {"results": [{"status": 200, "outcome": "done", "version": 7}] * operations}


def test_many_values_are_written_and_read(cluster):
    kv = KVStore(cluster.leader_url())
    values = {f"many/{n}": str(n) for n in range(2000)}
    values.update({"many/" + key: key for key in ["/", "a/b//c", "%2F", "?x=1#y", "..", "\r\n"]})
    values.update({"\x7f\x00": "\x00", "ключ": "grüße 😀", "many/empty": "", "..": "."})
    kv.put_many(values)
    assert kv.get_many(values) == values
    assert kv.get_many([*values, "many/never", "never"]) == values
    assert kv.get("ключ") == ("grüße 😀", True)
    assert kv.put_many({}) is None and kv.get_many([]) == {}


def test_every_node_takes_many_and_reads_what_was_written_before(cluster):
    leader, follower = KVStore(cluster.leader_url()), KVClient(cluster.follower_url())
    for round_ in range(20):
        values = {f"every/{n}": f"{round_}.{n}" for n in range(200)}
        writer, reader = random.sample([leader, follower], 2)
        writer.put_many(values)
        assert reader.get_many(values) == values


def test_large_values_are_written_and_read(cluster):
    kv = KVStore(cluster.leader_url())
    values = {f"large/{n}": chr(ord("a") + n) * (1 << 20) for n in range(12)}
    values["large/control"] = "\x00" * (1 << 20)
    kv.put_many(values)
    assert kv.get_many(values) == values
    with pytest.raises(CommitFailedError) as raised:
        kv.put_many({"large/too": "x" * ((1 << 20) + 1)})
    assert raised.value.outcome == "not_done"
    assert kv.get_many(["large/too", "k" * 4096]) == {}
    with pytest.raises(CommitFailedError):
        kv.get_many(["k" * 5000])


def test_a_batch_is_bounded(node, monkeypatch):
    monkeypatch.setattr(many, "_BATCH_OPERATIONS", 3)
    monkeypatch.setattr(many, "_BATCH_BYTES", 1000)
    node.answers = [done(3), done(2), done(1), done(1), done(1)]
    small = {f"k{n}": "v" for n in range(5)}
    KVStore(node.url).put_many({**small, "l1": "x" * 900, "l2": "x" * 2000, "s": ""})
    batches = [body["operations"] for _, body in node.asked]
    assert [len(each) for each in batches] == [3, 2, 1, 1, 1]
    assert batches[0][0] == {"op": "put", "key": "k0", "value": "v"}
    assert set(node.paths) == {"/v1/batch"}


def failure(node, *answers, values=("a", "b", "c")):
    node.answers = list(answers)
    with pytest.raises(CommitFailedError) as raised:
        KVStore(node.url).put_many({key: "v" for key in values})
    return raised.value


def test_writes_that_fail_tell_whether_some_were_done(node, monkeypatch):
    monkeypatch.setattr(many, "_BATCH_OPERATIONS", 2)
    problem = {"type": "urn:raft-kv:problem:no-leader", "detail": "no leader"}
    not_done = (503, {**problem, "outcome": "not_done"})
    unknown = (504, {**problem, "outcome": "unknown"})
    assert failure(node, not_done).outcome == "not_done"
    assert failure(node, unknown).outcome == "unknown"
    # The first two are written.
    assert failure(node, done(2), not_done).outcome == "unknown"
    assert failure(node, done(2), None).outcome == "unknown"
    assert isinstance(failure(node, done(2), None), NetworkError)


def test_a_batch_is_believed_only_if_every_operation_is_done(node):
    bad = [(200, {}), (200, {"results": {}}), done(2), done(4)]
    bad += [(200, {"results": [{"outcome": "not_done"}] * 3}), (200, {"results": [1, 2, 3]})]
    bad += [(200, b"It works!"), (404, b"Not found")]
    for answer in bad:
        error = failure(node, answer)
        assert isinstance(error, AnswerError) and error.is_unknown


def test_the_first_read_is_linearizable_and_the_others_follow_on_its_connection(node):
    node.answers = [FOUND, ABSENT, FOUND]
    kv = KVStore(node.url)
    assert kv.get_many(["a", "b", "c/ä", "a"]) == {"a": "v", "c/ä": "v"}
    stale = "?consistency=stale"
    assert node.paths == ["/v1/kv/a", f"/v1/kv/b{stale}", f"/v1/kv/c%2F%C3%A4{stale}"]
    assert node.connections == 1


def test_where_a_connection_ends_the_next_read_is_linearizable_again(node):
    ends = b'HTTP/1.1 200 OK\r\nraft-kv-node: 3\r\nETag: "7"\r\nConnection: close\r\n\r\nv'
    node.answers = [ends]
    assert KVStore(node.url).get_many(["a", "b", "c"]) == {"a": "v", "b": "v", "c": "v"}
    assert node.paths == ["/v1/kv/a", "/v1/kv/b", "/v1/kv/c"]
    assert node.connections == 3


def test_a_connection_that_is_to_end_is_not_used_again(node, monkeypatch):
    monkeypatch.setattr(many, "_READS", 1)
    status, content, headers = FOUND
    ends = (status, content, {**headers, "Connection": "close"})
    for answers in ([ends], [FOUND, ends]):
        before = node.connections
        node.answers = list(answers)
        keys = ["a", "b", "c"][: len(answers) + 1]
        assert KVStore(node.url).get_many(keys) == {key: "v" for key in keys}
        assert node.connections == before + 2


def test_few_reads_are_under_way_at_once(node, monkeypatch):
    sent = []
    send = Connection.send

    def recording(connection, data, deadline):
        sent.append(data)
        return send(connection, data, deadline)

    monkeypatch.setattr(Connection, "send", recording)
    monkeypatch.setattr(many, "_READS", 10)
    node.answers = [FOUND]
    keys = [f"k{n}" for n in range(101)]
    assert KVStore(node.url).get_many(keys) == {key: "v" for key in keys}
    assert [data.count(b"GET ") for data in sent] == [1] + [10] * 10
    assert len(node.asked) == 101 and node.connections == 1
    sent.clear()
    long = ["k" * 4000 + str(n) for n in range(20)]
    assert KVStore(node.url).get_many(long) == {key: "v" for key in long}
    assert max(len(data) for data in sent) <= 16 << 10


def test_reads_believe_only_the_node_that_answered_first(node):
    other = (200, b"v", {**FOUND[2], "raft-kv-node": "4"})
    strangers = [
        other,
        (200, b"v", {"ETag": '"7"'}),
        (200, b"v", NODE),
        (200, b"v", {**NODE, "ETag": 'W/"7"'}),
        (200, {"value": "v"}, NODE),
        (404, {"error": "unknown path"}),
        (404, b"Not found", NODE),
        (204, b"", NODE),
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ]
    for stranger in strangers:
        node.answers = [FOUND, FOUND, stranger]
        with pytest.raises(AnswerError) as raised:
            KVStore(node.url).get_many(["a", "b", "c"])
        assert "not the answer of a raft-kv node" in str(raised.value), stranger


def test_reads_that_fail_leave_no_answer_for_the_next_call(node):
    refusal = (503, {"type": "urn:raft-kv:problem:no-leader", "detail": "no leader"}, NODE)
    kv = KVStore(node.url)
    for answer in (refusal, None):
        node.answers = [FOUND, answer, FOUND]
        with pytest.raises(CommitFailedError):
            kv.get_many(["a", "b", "c", "d"])
        node.answers = [(200, {"is_leader": True})]
        assert kv.is_leader()


def test_reads_of_a_node_that_hangs_are_given_up_with_their_connection(node, monkeypatch):
    monkeypatch.setattr(many, "ANSWER_TIMEOUT", 0.1)
    end = threading.Event()
    node.answers = [FOUND, Later(end, FOUND), (200, {"is_leader": True})]
    kv = KVStore(node.url)
    with pytest.raises(NetworkError) as raised:
        kv.get_many(["a", "b"])
    assert "no answer in time" in str(raised.value)
    assert kv.is_leader() and node.connections == 2
    end.set()


def test_mistakes_are_told_before_anything_is_sent(node):
    kv = KVStore(node.url)
    for wrong, error in (({"a": "v", "b": 1}, TypeError), ({1: "v"}, TypeError)):
        with pytest.raises(error):
            kv.put_many(wrong)
    for key, value in (("", "v"), ("\ud800", "v"), ("k", "\ud800")):
        with pytest.raises(ValueError):
            kv.put_many({"a": "v", key: value})
    for key in ("", "\ud800"):
        with pytest.raises(ValueError):
            kv.get_many(["a", key])
    with pytest.raises(TypeError):
        kv.get_many([b"a"])
    assert node.asked == []
