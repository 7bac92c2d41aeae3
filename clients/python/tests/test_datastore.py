from python_kv import DataStore


def test_a_datastore_tells_what_was_there_before():
    store = DataStore()
    assert store.get("k") == (None, False)
    assert store.put("k", "1") == (None, False)
    assert store.put("k", "2") == ("1", True)
    assert store.cas("k", "wrong", "3") == ("2", True)
    assert store.get("k") == ("2", True)
    assert store.cas("k", "2", "3") == ("2", True)
    assert store.get("k") == ("3", True)
    assert store.cas("absent", "", "3") == (None, False)
    assert store.get("absent") == (None, False)
