"""The store against a real cluster."""

import random
import threading
import time

import pytest
import requests

from linearizability import NEVER, Operation, is_linearizable
from python_kv import CommitFailedError, DataStore, KVClient, KVStore, NotLeaderError
from python_kv.connection import Connection


def test_operations_tell_what_was_there_before(cluster):
    kv = KVStore(cluster.leader_url(), server_id=0)
    assert kv.is_leader()
    assert kv.get("hello") == (None, False)
    assert kv.put("hello", "world") == (None, False)
    assert kv.get("hello") == ("world", True)
    assert kv.put("hello", "there") == ("world", True)
    assert kv.cas("hello", "world", "no") == ("there", True)
    assert kv.get("hello") == ("there", True)
    assert kv.cas("hello", "there", "yes") == ("there", True)
    assert kv.get("hello") == ("yes", True)
    assert kv.cas("absent", "a", "b") == (None, False)
    assert kv.get("absent") == (None, False)


def test_text_of_every_kind_survives(cluster):
    kv = KVStore(cluster.leader_url())
    for text in ["", " ", "grüße", "日本語", '\u0000\n"\\', "😀" * 1000]:
        key = f"text/{text[:10]}"
        assert kv.put(key, text) == (None, False)
        assert kv.get(key) == (text, True)


def test_a_follower_refuses_and_names_the_leader(cluster):
    kv = KVStore(cluster.follower_url())
    assert not kv.is_leader()
    for operation in (lambda: kv.get("k"), lambda: kv.put("k", "v"), lambda: kv.cas("k", "a", "b")):
        with pytest.raises(NotLeaderError) as raised:
            operation()
    assert raised.value.leader is not None
    assert KVStore(f"http://{raised.value.leader}").is_leader()


def test_one_request_operations(cluster):
    client = KVClient(cluster.leader_url())
    assert client.put("one", "1") == (None, False)
    assert client.get("one") == ("1", True)
    assert client.cas("one", "1", "2") == ("1", True)
    assert client.get("one") == ("2", True)
    assert client.get("never") == (None, False)
    follower = KVClient(cluster.follower_url())
    for operation in (
        lambda: follower.get("one"),
        lambda: follower.put("one", "3"),
        lambda: follower.cas("one", "2", "3"),
    ):
        with pytest.raises(NotLeaderError) as raised:
            operation()
        assert f"http://{raised.value.leader}" == cluster.leader_url()
    assert client.get("one") == ("2", True)


def test_an_operation_costs_one_request_whatever_the_history(cluster, monkeypatch):
    kv = KVStore(cluster.leader_url())
    for n in range(200):
        kv.put("history", str(n))
    asked = []
    send = Connection.send

    def recording(connection, data, deadline):
        asked.append(data.split(b" ")[1])
        return send(connection, data, deadline)

    fresh = KVStore(cluster.leader_url())
    monkeypatch.setattr(Connection, "send", recording)
    assert fresh.get("history") == ("199", True)
    assert fresh.put("history", "end") == ("199", True)
    assert fresh.cas("history", "end", "over") == ("end", True)
    assert asked == [b"/get", b"/put", b"/cas"]


def test_a_write_is_noted_in_the_log_with_the_number_of_its_store(cluster):
    url = cluster.leader_url()
    kv = KVStore(url, server_id=77)
    kv.put("noted", "1")
    kv.cas("noted", "1", "2")
    commits = requests.get(f"{url}/get_commits_since", timeout=5).json()["commits"]
    noted = [each["command"] for each in commits if each["command"]["key"] == "noted"]
    assert [(each["kind"], each["id"]) for each in noted] == [("put", 77), ("cas", 77)]


def test_keys_and_values_of_every_shape(cluster):
    url = cluster.leader_url()
    for kv in (KVStore(url), KVClient(url)):
        for key in ["", "/", "a/b//c", "%2F", "%", "?x=1#y", "..", "\r\n", "\x7f\x00", "ключ"]:
            before = kv.get(key)
            assert kv.put(key, key) == before
            assert kv.cas(key, key, "%") == (key, True)
            assert kv.get(key) == ("%", True)


def test_values_that_are_too_large_or_no_text_are_refused_by_the_node(cluster):
    url = cluster.leader_url()
    for kv in (KVStore(url), KVClient(url)):
        largest = "\x00" * (1 << 20)
        before = kv.get("large")
        assert kv.put("large", largest) == before
        assert kv.get("large") == (largest, True)
        for key, value in (("large", largest + "x"), ("k" * 5000, ""), ("large", "x" * (80 << 20))):
            with pytest.raises(CommitFailedError) as raised:
                kv.put(key, value)
            assert raised.value.outcome == "not_done", raised.value
        for half in ("\ud800", "x\udfff"):
            with pytest.raises(CommitFailedError) as raised:
                kv.put("half", half)
            assert raised.value.outcome == "not_done"
        assert kv.get("half") == (None, False)
        assert kv.get("large") == (largest, True)


def test_bytes_that_are_no_text_are_read_with_replacement_characters(cluster):
    url = cluster.leader_url()
    requests.put(f"{url}/v1/kv/bytes", data=b"a\xffb", timeout=5).raise_for_status()
    for kv in (KVStore(url), KVClient(url)):
        assert kv.get("bytes") == ("a\ufffdb", True)


class Recorder:
    """One thread's operations, with a store of its own, as a history."""

    def __init__(self, url, number, keys):
        self.kv = KVStore(url, server_id=number)
        self.number = number
        self.keys = keys
        self.random = random.Random(number)
        self.history = []
        self.unexpected = None

    def run(self, operations):
        try:
            for n in range(operations):
                self.step(f"{self.number}.{n}")
        except Exception as error:
            self.unexpected = error

    def step(self, value):
        key = self.random.choice(self.keys)
        kind = self.random.choice(["put", "get", "cas"])
        called = time.monotonic()
        arguments, answer, answered = (), None, NEVER
        try:
            if kind == "put":
                arguments = (value,)
                answer = self.kv.put(key, value)
            elif kind == "get":
                answer = self.kv.get(key)
            else:
                # Half of the time something that was there a moment ago.
                expected = self.last_seen(key) if self.random.random() < 0.5 else "nothing"
                arguments = (expected, value)
                answer = self.kv.cas(key, expected, value)
            answered = time.monotonic()
        except NotLeaderError:
            return self.find_leader()
        except CommitFailedError as error:
            self.find_leader()
            if not error.is_unknown or kind == "get":
                return
        self.history.append((key, Operation(kind, arguments, answer, called, answered)))

    def last_seen(self, key):
        for seen, operation in reversed(self.history):
            if seen == key and operation.answer and operation.answer[1]:
                return operation.answer[0]
        return "nothing"

    def find_leader(self):
        pass


def run_all(recorders, operations):
    threads = [threading.Thread(target=each.run, args=(operations,)) for each in recorders]
    for thread in threads:
        thread.start()
    return threads


def check(recorders, keys, expected_at_least):
    assert [each.unexpected for each in recorders if each.unexpected] == []
    history = [entry for each in recorders for entry in each.history]
    assert len(history) >= expected_at_least
    for key in keys:
        assert is_linearizable([operation for k, operation in history if k == key]), key


def test_twenty_threads_on_shared_keys_see_one_store(cluster):
    keys = [f"shared/{n}" for n in range(4)]
    url = cluster.leader_url()
    recorders = [Recorder(url, number, keys) for number in range(20)]
    for thread in run_all(recorders, operations=20):
        thread.join()
    check(recorders, keys, expected_at_least=400)


class Counter:
    """One thread's increments of a shared counter: each reads it, swaps, and if others were faster
    tries again. A thread that is told that its swap was made has counted."""

    #: Far more than it takes: whoever swaps makes one of the others try again, and all swap a few times.
    TRIES_MAX = 1000

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.number = number
        self.kv = KVStore(cluster.leader_url(), server_id=number)
        self.made = self.unknown = 0
        self.unexpected = None

    def run(self, increments):
        try:
            for _ in range(self.TRIES_MAX):
                if self.made == increments:
                    return
                self.increment()
            raise AssertionError(f"{self.made} swaps made in {self.TRIES_MAX} tries")
        except Exception as error:
            self.unexpected = error

    def increment(self):
        try:
            before, _ = self.kv.get("counter")
            answer = self.kv.cas("counter", before, str(int(before) + 1))
            self.made += answer == (before, True)
        except NotLeaderError:
            self.kv = KVStore(self.cluster.leader_url(), server_id=self.number)
        except CommitFailedError as error:
            self.unknown += error.is_unknown


def test_no_increment_by_compare_and_swap_is_lost(cluster):
    KVStore(cluster.leader_url()).put("counter", "0")
    counters = [Counter(cluster, number) for number in range(8)]
    for thread in run_all(counters, 5):
        thread.join()
    assert [each.unexpected for each in counters if each.unexpected] == []
    made = sum(each.made for each in counters)
    unknown = sum(each.unknown for each in counters)
    assert made == 8 * 5
    counted = int(KVStore(cluster.leader_url()).get("counter")[0])
    assert made <= counted <= made + unknown


class Follower(Recorder):
    """A recorder that goes on with whoever leads."""

    def __init__(self, cluster, number, keys):
        super().__init__(cluster.leader_url(), number, keys)
        self.cluster = cluster

    def find_leader(self):
        self.kv = KVStore(self.cluster.leader_url(), server_id=self.number, timeout_ms=3000)


def test_killing_the_leader_loses_nothing_and_confuses_nobody(own_cluster):
    keys = [f"shared/{n}" for n in range(4)]
    recorders = [Follower(own_cluster, number, keys) for number in range(8)]
    leader = own_cluster.leader()
    threads = run_all(recorders, operations=60)
    while sum(len(each.history) for each in recorders) < 60:
        time.sleep(0.01)
    own_cluster.kill_node(leader)
    for thread in threads:
        thread.join()
    final = KVStore(own_cluster.leader_url())
    for key in keys:
        called = time.monotonic()
        answer = final.get(key)
        recorders[0].history.append((key, Operation("get", (), answer, called, time.monotonic())))
    own_cluster.wait_for_line("signal 9")
    check(recorders, keys, expected_at_least=300)


class Replica:
    """A client as the older package has it: a dictionary of its own, fed by the commits."""

    def __init__(self, url):
        self.url = url
        self.seen = -1
        self.dictionary = DataStore()

    def catch_up(self):
        reply = requests.get(
            f"{self.url}/get_commits_since", params={"since_index": self.seen}, timeout=5
        )
        reply.raise_for_status()
        commits = sorted(reply.json()["commits"], key=lambda commit: commit["index"])
        for commit in commits:
            self.take(commit)

    def take(self, commit):
        self.seen = max(self.seen, commit["index"])
        command = commit["command"]
        if command["kind"] == "get":
            return self.dictionary.get(command["key"])
        if command["kind"] == "put":
            return self.dictionary.put(command["key"], command["value"])
        assert command["kind"] == "cas"
        return self.dictionary.cas(command["key"], command["compare_value"], command["value"])

    def execute(self, kind, key, value="", compare_value=""):
        self.catch_up()
        command = {
            "kind": kind,
            "key": key,
            "value": value,
            "compare_value": compare_value,
            "id": 9,
        }
        reply = requests.post(f"{self.url}/submit", json=command, timeout=5)
        reply.raise_for_status()
        assert reply.json()["is_leader"]
        wait = {"log_index": reply.json()["log_index"], "timeout_ms": 30000}
        reply = requests.post(f"{self.url}/wait_commit", json=wait, timeout=40)
        reply.raise_for_status()
        assert reply.json()["command"]["id"] == 9
        return self.take(reply.json())


def test_a_client_of_the_older_kind_works_unchanged(own_cluster):
    url = own_cluster.leader_url()
    first = requests.post(
        f"{url}/submit", json={"kind": "put", "key": "a", "value": "0"}, timeout=5
    ).json()
    assert (first["log_index"], first["is_leader"]) == (0, True)
    # Submitted is not committed; and such a client misses what is committed meanwhile.
    wait = {"log_index": 0, "timeout_ms": 30000}
    assert requests.post(f"{url}/wait_commit", json=wait, timeout=40).status_code == 200

    replica, model, chance = Replica(url), DataStore(), random.Random(1)
    model.put("a", "0")
    for n in range(100):
        key = chance.choice("abc")
        kind = chance.choice(["put", "get", "cas"])
        if kind == "get":
            assert replica.execute("get", key) == model.get(key)
        elif kind == "put":
            assert replica.execute("put", key, str(n)) == model.put(key, str(n))
        else:
            guess = model.get(key)[0] if chance.random() < 0.5 else "wrong"
            guess = guess or ""
            assert replica.execute("cas", key, str(n), guess) == model.cas(key, guess, str(n))

    late = Replica(own_cluster.follower_url())
    late.catch_up()
    assert late.seen == replica.seen == 100
    for key in "abc":
        assert late.dictionary.get(key) == KVStore(url).get(key) == model.get(key)
