"""Checks that a history of one key is linearizable: Wing and Gong's search, with memory (Lowe).

An operation is placed somewhere between its call and its answer so that all answers come out as
those of one store. An operation whose answer never came may be placed anywhere after its call, or
nowhere.
"""

from typing import Any, List, NamedTuple, Optional, Set, Tuple

#: The end of an operation whose answer never came.
NEVER = float("inf")
#: States looked at before the search gives up.
STEPS_MAX = 2_000_000


class Operation(NamedTuple):
    """One operation on one key. `answer` is what the store said; None where it said nothing."""

    kind: str
    arguments: Tuple[str, ...]
    answer: Optional[Tuple[Optional[str], bool]]
    called: float
    answered: float


def apply(
    value: Optional[str], operation: Operation
) -> Tuple[Tuple[Optional[str], bool], Optional[str]]:
    """The answer of a store that holds `value`, and what it holds afterwards."""
    answer = (value, value is not None)
    if operation.kind == "put":
        return answer, operation.arguments[0]
    if operation.kind == "cas" and value == operation.arguments[0]:
        return answer, operation.arguments[1]
    return answer, value


def is_linearizable(history: List[Operation]) -> bool:
    """Whether the operations of one key, which did not exist before, have an order that explains them."""
    operations = sorted(history, key=lambda each: each.called)
    required = sum(1 << n for n, each in enumerate(operations) if each.answered != NEVER)
    seen: Set[Any] = set()
    todo = [(0, None)]
    while todo:
        done, value = todo.pop()
        if done & required == required:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        if len(seen) > STEPS_MAX:
            raise RuntimeError("the history is too entangled to be checked")
        # What was called after the first answer that is still missing cannot be next.
        horizon = NEVER
        for n, each in enumerate(operations):
            if each.called > horizon:
                break
            if not done >> n & 1:
                horizon = min(horizon, each.answered)
        for n, each in enumerate(operations):
            if each.called > horizon:
                break
            if done >> n & 1:
                continue
            answer, after = apply(value, each)
            if each.answer is None or each.answer == answer:
                todo.append((done | 1 << n, after))
    return False
