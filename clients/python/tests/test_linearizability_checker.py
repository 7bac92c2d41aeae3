"""The checker is believed only because it finds what is wrong."""

from linearizability import NEVER, Operation, is_linearizable


def put(value, before, called, answered):
    answer = None if answered == NEVER else (before, before is not None)
    return Operation("put", (value,), answer, called, answered)


def get(value, called, answered):
    return Operation("get", (), (value, value is not None), called, answered)


def test_operations_one_after_another():
    assert is_linearizable(
        [put("a", None, 0, 1), get("a", 2, 3), put("b", "a", 4, 5), get("b", 6, 7)]
    )


def test_an_outdated_read_is_found():
    assert not is_linearizable([put("a", None, 0, 1), put("b", "a", 2, 3), get("a", 4, 5)])


def test_a_lost_write_is_found():
    assert not is_linearizable([put("a", None, 0, 1), get(None, 2, 3)])


def test_reads_beside_a_write_may_see_either_side_but_not_go_back():
    write = [put("a", None, 0, 1), put("b", "a", 2, 9)]
    assert is_linearizable(write + [get("a", 3, 4), get("b", 5, 6)])
    assert not is_linearizable(write + [get("b", 3, 4), get("a", 5, 6)])


def test_two_swaps_cannot_both_win():
    swaps = [
        Operation("cas", ("a", "b"), ("a", True), 2, 5),
        Operation("cas", ("a", "c"), ("a", True), 2, 5),
    ]
    assert not is_linearizable([put("a", None, 0, 1)] + swaps)


def test_a_write_without_an_answer_may_show_later_or_never():
    lost = put("b", None, 2, NEVER)
    assert is_linearizable([put("a", None, 0, 1), lost, get("a", 3, 4), get("b", 5, 6)])
    assert is_linearizable([put("a", None, 0, 1), lost, get("a", 3, 4)])
    assert not is_linearizable([put("a", None, 0, 1), lost, get("b", 3, 4), get("a", 5, 6)])
