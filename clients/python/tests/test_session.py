"""Writes that are repeated and done once."""

import os
import threading
import time

import pytest
import requests

from local_cluster import free_ports
from losing_proxy import LosingProxy
from played_node import HANG
from python_kv import AnswerError, CommitFailedError, NetworkError, SessionClient
from test_addresses_and_times import NO_ADDRESSES, PATIENCE
from test_foreign import FOREIGN
from test_outcomes import LIVES

NODE = {"raft-kv-node": "3"}
OPENED = (201, {"session": "17", "ttl_ms": 60_000, "window": 128}, NODE)
OPENED_NEXT = (201, {**OPENED[1], "session": "18"}, NODE)
WRITTEN = (200, b"", {**NODE, "ETag": '"7"'})
DELETED = (204, b"", {**NODE, "ETag": '"7"'})


def problem(status, kind, **fields):
    return status, {"type": f"urn:raft-kv:problem:{kind}", "detail": kind, **fields}, NODE


ABSENT = problem(404, "not-found", outcome="not_done")
NO_LEADER = problem(503, "no-leader", outcome="not_done")
LATE = problem(504, "timeout", outcome="unknown")
ENDED = problem(410, "session-ended", outcome="unknown")


@pytest.fixture
def proxy(cluster):
    proxy = LosingProxy(cluster.follower_url())
    yield proxy
    proxy.stop()


def commands(url, key):
    """What the store has executed on a key."""
    commits = requests.get(f"{url}/get_commits_since", timeout=5).json()["commits"]
    executed = [each["command"] for each in commits if each["command"]["key"] == key]
    return [(each["kind"], each["value"]) for each in executed]


def first(requests_):
    """A function that is true for the first requests with this method to a key."""
    left = dict(requests_)

    def loses(method, path):
        if not path.startswith("/v1/kv/") or not left.get(method):
            return False
        left[method] -= 1
        return True

    return loses


def numbers(node):
    """Session and number of each write that a played node was asked for."""
    heads = [head for head in node.heads if "session-seq" in head]
    return [(head["session-id"], head["session-seq"]) for head in heads]


def test_operations_on_any_node(cluster):
    for url in cluster.urls:
        with SessionClient(url) as kv:
            assert kv.get("s/hello") == (None, False)
            assert kv.cas("s/hello", "a", "b") == (None, False)
            assert kv.delete("s/hello") is False
            assert kv.put("s/hello", "world") is None
            assert kv.get("s/hello") == ("world", True)
            assert kv.cas("s/hello", "other", "no") == ("world", True)
            assert kv.cas("s/hello", "world", "there") == ("world", True)
            assert kv.get("s/hello") == ("there", True)
            assert kv.delete("s/hello") is True
            assert kv.get("s/hello") == (None, False)


def test_text_of_every_kind_survives(cluster):
    with SessionClient(cluster.urls) as kv:
        for text in ["/", "a/b//c", "%2F", "?x=1#y", "..", "\r\n\x7f\x00", "ключ", "😀" * 1000]:
            assert kv.put(f"s/{text[:10]}", text) is None
            assert kv.cas(f"s/{text[:10]}", text, "") == (text, True)
            assert kv.get(f"s/{text[:10]}") == ("", True)
        largest = "\x00" * (1 << 20)
        kv.put("s/large", largest)
        assert kv.get("s/large") == (largest, True)
        requests.put(f"{cluster.urls[0]}/v1/kv/s/bytes", data=b"a\xffb", timeout=5)
        assert kv.get("s/bytes") == ("a\ufffdb", True)
        assert kv.cas("s/bytes", "a\ufffdb", "new") == ("a\ufffdb", True)
        assert kv.get("s/bytes") == ("new", True)


def test_what_the_store_refuses_fails_at_once(cluster):
    began = time.monotonic()
    with SessionClient(cluster.urls, timeout_ms=2000 * PATIENCE) as kv:
        for key, value in (("s/refused", "x" * ((1 << 20) + 1)), ("k" * 5000, "")):
            with pytest.raises(CommitFailedError) as raised:
                kv.put(key, value)
            assert raised.value.outcome == "not_done" and "HTTP 413" in str(raised.value)
            assert time.monotonic() - began < PATIENCE
        assert kv.get("s/refused") == (None, False)


def test_a_write_whose_answer_is_lost_is_done_once(cluster, proxy):
    with SessionClient(proxy.url) as kv:
        proxy.loses = first({"PUT": 2})
        kv.put("lost/put", "1")
        assert commands(cluster.urls[0], "lost/put") == [("put", "1")]
        # The reply to the first attempt, although the key is not the same any more.
        proxy.loses = first({"DELETE": 1})
        assert kv.delete("lost/put") is True
        assert kv.get("lost/put") == (None, False)
        kv.put("lost/cas", "0")
        for n in range(5):
            proxy.loses = first({"PUT": 1, "GET": 1})
            assert kv.cas("lost/cas", str(n), str(n + 1)) == (str(n), True)
        assert kv.get("lost/cas") == ("5", True)
        # A refusal too: the first attempt decides.
        written = [value for kind, value in commands(cluster.urls[0], "lost/cas") if kind == "put"]
        assert len(proxy.lost) == 2 + 1 + 5 * 2 and written == ["0", "1", "2", "3", "4", "5"]


def test_the_next_node_gives_the_answer_that_the_first_one_lost(cluster, proxy):
    proxy.loses = lambda method, path: method == "PUT"
    with SessionClient([proxy.url, *cluster.urls]) as kv:
        kv.put("next", "1")
        # The node that answered is asked first from now on.
        kv.put("next", "2")
    assert len(proxy.lost) == 1
    assert commands(cluster.urls[0], "next") == [("put", "1"), ("put", "2")]


def test_a_lost_answer_to_the_opening_of_a_session_does_no_harm(cluster, proxy):
    lost = []
    proxy.loses = lambda method, path: path == "/v1/sessions" and not lost and not lost.append(path)
    with SessionClient(proxy.url) as kv:
        kv.put("opening", "1")
    assert len(proxy.lost) == 1
    assert commands(cluster.urls[0], "opening") == [("put", "1")]


def test_a_write_is_repeated_with_its_number_until_it_is_decided(node):
    node.answers = [OPENED, NO_LEADER, LATE, None, (503, b"upstream"), NO_LEADER, WRITTEN, DELETED]
    kv = SessionClient(node.url)
    kv.put("k", "v")
    assert numbers(node) == [("17", "1")] * 6
    assert kv.delete("k") is True
    assert numbers(node)[6:] == [("17", "2")]
    assert [path for path in node.paths if path != "/v1/kv/k"] == ["/v1/sessions"]
    waits = [int(head["raft-kv-wait-ms"]) for head in node.heads]
    assert all(1000 < wait <= 30_000 for wait in waits)


def test_a_repeat_is_decided_as_the_first_attempt_was(node):
    value = (200, b"a", {**NODE, "ETag": '"5"'})
    changed = problem(412, "condition-failed", outcome="not_done", version=6)
    node.answers = [value, OPENED, None, changed, value, None, WRITTEN, None, ABSENT]
    kv = SessionClient(node.url)
    # The first swap was refused, so the value is read again.
    assert kv.cas("k", "a", "b") == ("a", True)
    assert numbers(node) == [("17", "1")] * 2 + [("17", "2")] * 2
    conditions = [head.get("if-match") for head in node.heads if head["method"] == "PUT"]
    assert conditions == ['"5"'] * 4
    assert kv.delete("k") is False


def test_an_overloaded_node_is_given_time(node):
    node.answers = [OPENED, problem(429, "overloaded", outcome="not_done"), WRITTEN]
    began = time.monotonic()
    SessionClient(node.url).put("k", "v")
    assert time.monotonic() - began >= 1


def failure(call):
    with pytest.raises(CommitFailedError) as raised:
        call()
    return raised.value


def test_when_the_time_is_over_the_outcome_is_that_of_all_attempts(node):
    for answers, outcome in (
        ([OPENED, NO_LEADER], "not_done"),
        ([OPENED, LATE, NO_LEADER], "unknown"),
        ([OPENED, None, NO_LEADER], "unknown"),
        ([OPENED, LATE, problem(413, "too-large", outcome="not_done")], "unknown"),
        # Without a session, nothing was sent.
        ([LATE], "not_done"),
        ([NO_LEADER, None], "not_done"),
    ):
        node.answers = list(answers)
        kv = SessionClient(node.url, timeout_ms=600)
        assert failure(lambda: kv.put("k", "v")).outcome == outcome, answers
    node.answers = [LATE]
    assert failure(lambda: SessionClient(node.url, timeout_ms=100).get("k")).outcome == "not_done"


@pytest.mark.parametrize("lives", [False, True])
def test_a_node_that_hangs_does_not_hold_up_the_others(cluster, node, lives):
    node.answers = [HANG, LIVES] if lives else [HANG]
    key = f"hangs/{lives}"
    with SessionClient([node.url, *cluster.urls]) as kv:
        began = time.monotonic()
        kv.put(key, "1")
        assert time.monotonic() - began < 15
    assert commands(cluster.urls[0], key) == [("put", "1")]


def session_ids(proxy):
    heads = [head for head in proxy.lost + proxy.passed if "Session-Id: " in head]
    return [head.split("Session-Id: ")[1].split("\r\n")[0] for head in heads]


def end_session(cluster, id_):
    assert requests.delete(f"{cluster.urls[0]}/v1/sessions/{id_}", timeout=5).status_code == 204


def test_a_write_that_was_not_done_goes_on_in_a_new_session(cluster, proxy):
    with SessionClient(proxy.url) as kv:
        kv.put("ended", "1")
        end_session(cluster, session_ids(proxy)[0])
        kv.put("ended", "2")
        assert len(set(session_ids(proxy))) == 2
    assert commands(cluster.urls[0], "ended") == [("put", "1"), ("put", "2")]


def test_a_write_that_may_be_done_is_not_repeated_in_a_new_session(cluster, proxy):
    loses = first({"PUT": 1})

    def loses_and_ends(method, path):
        if not loses(method, path):
            return False
        end_session(cluster, session_ids(proxy)[-1])
        return True

    with SessionClient(proxy.url) as kv:
        kv.put("doubt", "1")
        proxy.loses = loses_and_ends
        error = failure(lambda: kv.put("doubt", "2"))
        assert error.is_unknown and "HTTP 410" in str(error)
        # It was done, and once.
        assert commands(cluster.urls[0], "doubt") == [("put", "1"), ("put", "2")]
        kv.put("doubt", "3")
    assert len(set(session_ids(proxy))) == 2
    assert commands(cluster.urls[0], "doubt") == [("put", "1"), ("put", "2"), ("put", "3")]


def test_a_new_session_that_is_refused_is_not_replaced_forever(node):
    node.answers = [OPENED, ENDED]
    error = failure(lambda: SessionClient(node.url).put("k", "v"))
    assert error.outcome == "not_done"
    assert node.paths == ["/v1/sessions", "/v1/kv/k"]


def test_a_session_that_was_idle_for_long_is_not_used_again(node, monkeypatch):
    now, passed = time.monotonic, [0]
    monkeypatch.setattr(time, "monotonic", lambda: now() + passed[0])
    node.answers = [OPENED, WRITTEN, WRITTEN, WRITTEN, OPENED_NEXT, WRITTEN]
    kv = SessionClient(node.url)
    for seconds in (0, 20, 20, 31):
        passed[0] += seconds
        kv.put("k", "v")
    assert numbers(node) == [("17", "1"), ("17", "2"), ("17", "3"), ("18", "1")]


def test_numbers_that_no_write_was_done_with_do_not_use_up_the_window(cluster):
    proxy = LosingProxy(cluster.leader_url())
    with SessionClient(proxy.url) as kv:
        kv.put("window", "1")
        for _ in range(130):
            failure(lambda: kv.put("k" * 5000, ""))
        kv.put("window", "2")
        assert len(set(session_ids(proxy))) == 2
    proxy.stop()
    assert commands(cluster.urls[0], "window") == [("put", "1"), ("put", "2")]


def test_threads_use_sessions_of_their_own_at_a_time(cluster):
    proxy = LosingProxy(cluster.leader_url())
    lost, lock = [0], threading.Lock()

    def every_third(method, path):
        if method != "PUT":
            return False
        with lock:
            lost[0] += 1
            return lost[0] % 3 == 0

    proxy.loses = every_third
    errors = []

    def run(kv, number):
        try:
            for n in range(20):
                kv.put(f"threads/{number}", str(n))
        except Exception as error:
            errors.append(error)

    with SessionClient([proxy.url]) as kv:
        threads = [threading.Thread(target=run, args=(kv, number)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [] and 1 <= len(set(session_ids(proxy))) <= 10
    proxy.stop()
    for number in range(10):
        written = commands(cluster.urls[0], f"threads/{number}")
        assert written == [("put", str(n)) for n in range(20)]


def in_a_child(call):
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_process_has_sessions_of_its_own(cluster):
    with SessionClient(cluster.urls) as kv:
        kv.put("fork", "parent")
        session = kv._idle[0].id
        in_a_child(lambda: kv.put("fork", "same"))
        # The same write, with the next number: it is another one than the child's.
        kv.put("fork", "same")
        written = [value for _, value in commands(cluster.urls[0], "fork")]
        assert written == ["parent", "same", "same"]
        in_a_child(kv.close)
        kv.put("fork", "parent")
        assert kv._idle[0].id == session, "the child has ended it"


def test_closing_ends_the_sessions(cluster, proxy):
    with SessionClient(proxy.url) as kv:
        assert proxy.passed == []
        kv.put("closing", "1")
    (id_,) = set(session_ids(proxy))
    ended = requests.delete(f"{cluster.urls[0]}/v1/sessions/{id_}", timeout=5)
    assert ended.status_code == 404
    for operation in (
        lambda: kv.put("closing", "2"),
        lambda: kv.get("closing"),
        lambda: kv.cas("closing", "1", "2"),
        lambda: kv.delete("closing"),
    ):
        with pytest.raises(ValueError, match="closed"):
            operation()
    kv.close()


def test_closing_does_not_wait_for_a_cluster_that_is_gone(node):
    node.answers = [OPENED, WRITTEN, HANG]
    with SessionClient(node.url) as kv:
        kv.put("k", "v")
        began = time.monotonic()
    assert time.monotonic() - began < 15
    with pytest.raises(KeyError), SessionClient(node.url):
        raise KeyError


def test_a_write_under_way_when_the_client_is_closed_ends_its_session(node):
    node.answers = [OPENED, WRITTEN, DELETED]
    kv = SessionClient(node.url)
    ask = kv._cluster.ask

    def closing(*arguments, **named):
        reply = ask(*arguments, **named)
        if arguments[0] == "PUT":
            kv.close()
        return reply

    kv._cluster.ask = closing
    kv.put("k", "v")
    assert node.paths == ["/v1/sessions", "/v1/kv/k", "/v1/sessions/17"]


# The last one is found to be wrong by the look-up of its name.
@pytest.mark.parametrize("address", NO_ADDRESSES[:-1])
def test_a_wrong_address_is_refused_before_anything_is_sent(address):
    for addresses in (address, ["localhost:8080", address]):
        with pytest.raises(ValueError, match="no address of a node"):
            SessionClient(addresses)


def test_mistakes_of_the_program_are_reported_before_anything_is_sent(node):
    for addresses in ([], ()):
        with pytest.raises(ValueError, match="addresses is empty"):
            SessionClient(addresses)
    for addresses in ([8080], [None], [b"localhost:8080"]):
        with pytest.raises(TypeError, match="address"):
            SessionClient(addresses)
    with pytest.raises(ValueError, match="timeout_ms"):
        SessionClient(node.url, timeout_ms=0)
    kv = SessionClient(node.url)
    for bad in (None, 1, b"k"):
        for operation in (
            lambda: kv.put(bad, "v"),
            lambda: kv.put("k", bad),
            lambda: kv.get(bad),
            lambda: kv.cas(bad, "a", "b"),
            lambda: kv.cas("k", bad, "b"),
            lambda: kv.cas("k", "a", bad),
            lambda: kv.delete(bad),
        ):
            with pytest.raises(TypeError, match="expected str"):
                operation()
    for operation in (
        lambda: kv.put("", "v"),
        lambda: kv.get(""),
        lambda: kv.delete(""),
        lambda: kv.put("\ud800", "v"),
        lambda: kv.put("k", "\ud800"),
        lambda: kv.cas("k", "a", "x\udfff"),
    ):
        with pytest.raises(ValueError):
            operation()
    assert node.asked == []


def test_where_no_node_is_the_answer_comes_at_once(node):
    port = free_ports(2)
    urls = [f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"]
    began = time.monotonic()
    for addresses in (urls, NO_ADDRESSES[-1]):
        kv = SessionClient(addresses, timeout_ms=2000 * PATIENCE)
        error = failure(lambda: kv.put("k", "v"))
        assert isinstance(error, NetworkError) and error.outcome == "not_done"
        assert "not reached" in str(error)
        assert time.monotonic() - began < PATIENCE
    node.answers = [FOREIGN["html"]]
    kv = SessionClient([urls[0], node.url], timeout_ms=2000 * PATIENCE)
    error = failure(lambda: kv.put("k", "v"))
    assert isinstance(error, AnswerError) and error.outcome == "not_done"
    # Nothing but a session was asked for.
    assert node.paths == ["/v1/sessions"]
    assert time.monotonic() - began < PATIENCE


def test_addresses_where_no_node_is_are_passed_over(cluster, node):
    node.answers = [FOREIGN["html"]]
    wrong = f"http://127.0.0.1:{free_ports(1)}"
    with SessionClient([wrong, node.url, cluster.follower_url()]) as kv:
        kv.put("wrong", "1")
        assert kv.get("wrong") == ("1", True)
    assert commands(cluster.urls[0], "wrong") == [("put", "1")]


#: Answers that a node would give to another request, or that lack what makes them a node's.
NEARLY = {
    "no node": (200, b"", {"ETag": '"7"'}),
    "no node deleted": (204, b"", {"ETag": '"7"'}),
    "no version": (200, b"", NODE),
    "no version deleted": (204, b"", NODE),
    "a bad version": (200, b"", {**NODE, "ETag": 'W/"7"'}),
    "opened": OPENED,
    "a batch": (200, {"results": [{"status": 200, "outcome": "done", "version": 8}]}, NODE),
    "no node absent": (404, ABSENT[1]),
    "no node changed": (412, {"type": "urn:raft-kv:problem:condition-failed"}),
    "no node ended": (410, ENDED[1]),
}
READ = (200, b"a", {**NODE, "ETag": '"5"'})


@pytest.mark.parametrize("name, answer", {**FOREIGN, **NEARLY}.items())
def test_a_foreign_answer_is_no_success_and_decides_nothing(node, name, answer):
    kv = SessionClient(node.url)
    # The next answer decides, under the same number.
    node.answers = [OPENED, answer, WRITTEN]
    kv.put("k", "v")
    node.answers = [answer, DELETED]
    assert kv.delete("k") is True
    node.answers = [READ, answer, WRITTEN]
    assert kv.cas("k", "a", "b") == ("a", True)
    node.answers = [answer, READ]
    assert kv.get("k") == ("a", True)
    assert numbers(node) == [("17", n) for n in "112233"]


def test_an_answer_to_another_kind_of_request_decides_nothing(node):
    node.answers = [OPENED, DELETED, WRITTEN, WRITTEN, DELETED]
    kv = SessionClient(node.url)
    kv.put("k", "v")
    assert kv.delete("k") is True
    assert numbers(node) == [("17", n) for n in "1122"]


def test_only_foreign_answers_leave_a_write_unknown(node):
    node.answers = [OPENED, (200, b"", {"ETag": '"7"'})]
    kv = SessionClient(node.url, timeout_ms=300)
    error = failure(lambda: kv.put("k", "v"))
    assert isinstance(error, AnswerError) and error.is_unknown


def test_a_session_has_an_id_and_a_time(node):
    good = OPENED[1]
    ids = (None, 17, "", "x", "-1", "1" * 21, "1\r\nX: y", "\u0661")
    bad = [{**good, "session": id_} for id_ in ids]
    bad += [{**good, "ttl_ms": v} for v in (None, "60000", -1, 1.5, True)]
    bad += [[17], 17, {}]
    for fields in bad:
        node.answers = [(201, fields, NODE)]
        error = failure(lambda: SessionClient(node.url).put("k", "v"))
        assert isinstance(error, AnswerError) and error.outcome == "not_done", fields
    for answer in FOREIGN.values():
        node.answers = [answer]
        error = failure(lambda: SessionClient(node.url).put("k", "v"))
        assert isinstance(error, AnswerError) and error.outcome == "not_done", answer
    assert set(node.paths) == {"/v1/sessions"}


def kill_the_leader(cluster):
    cluster.kill_node(cluster.leader())
    cluster.wait_for_line("signal 9")


def restart_all(cluster):
    cluster.stop()
    cluster.start()


def move_leadership(cluster):
    answers = [
        requests.post(f"{cluster.leader_url()}/v1/cluster/transfer", timeout=30) for _ in range(3)
    ]
    # On a busy machine one may fail.
    assert any(answer.status_code == 200 for answer in answers)


class Writer:
    """One thread's writes: of its own key, of a counter of its own, and of one that all share."""

    def __init__(self, kv, number):
        self.kv = kv
        self.number = number
        self.made = 0
        self.unexpected = None

    def run(self, rounds):
        try:
            for n in range(rounds):
                self.kv.put(f"put/{self.number}", str(n))
                before = (str(n), True)
                assert self.kv.cas(f"own/{self.number}", str(n), str(n + 1)) == before
                self.count()
                self.made += 1
                if n % 5 == 4:
                    assert self.kv.delete(f"put/{self.number}") is True
        except BaseException as error:
            self.unexpected = error

    def count(self):
        while True:
            value, _ = self.kv.get("shared")
            if self.kv.cas("shared", value, str(int(value) + 1)) == (value, True):
                return


@pytest.mark.parametrize("disturb", [kill_the_leader, move_leadership, restart_all])
def test_no_write_fails_and_each_is_done_once(own_cluster, disturb):
    threads, rounds = 8, 60
    # The leader is the first that is asked.
    with SessionClient([own_cluster.leader_url(), *own_cluster.urls], timeout_ms=120_000) as kv:
        writers = [Writer(kv, number) for number in range(threads)]
        for key in ["shared", *(f"own/{number}" for number in range(threads))]:
            kv.put(key, "0")
        running = [threading.Thread(target=each.run, args=(rounds,)) for each in writers]
        for thread in running:
            thread.start()
        while sum(each.made for each in writers) < threads * rounds // 4:
            assert not any(each.unexpected for each in writers), writers[0].unexpected
            time.sleep(0.01)
        disturb(own_cluster)
        made = sum(each.made for each in writers)
        for thread in running:
            thread.join()
        assert [each.unexpected for each in writers if each.unexpected] == []
        # It was disturbed while they wrote.
        assert made < threads * rounds
        assert kv.get("shared") == (str(threads * rounds), True)
        for number in range(threads):
            assert kv.get(f"own/{number}") == (str(rounds), True)
    url = own_cluster.leader_url()
    for number in range(threads):
        puts = [value for kind, value in commands(url, f"put/{number}") if kind == "put" and value]
        assert puts == [str(n) for n in range(rounds)]
