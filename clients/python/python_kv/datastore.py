"""A key-value store in memory, with the operations of the replicated one.

It does to its state what the replicated store does, one operation at a time: a model for tests, and a
stand-in where no cluster is at hand.
"""

from typing import Dict, Optional, Tuple


class DataStore:
    """Keys and values in a dictionary. Not for several threads at once."""

    def __init__(self) -> None:
        self._values: Dict[str, str] = {}

    def get(self, key: str) -> Tuple[Optional[str], bool]:
        """Returns ``(value, found)``."""
        return self._values.get(key), key in self._values

    def put(self, key: str, value: str) -> Tuple[Optional[str], bool]:
        """Writes; returns ``(previous_value, was_found)``."""
        before = self.get(key)
        self._values[key] = value
        return before

    def cas(self, key: str, compare_value: str, new_value: str) -> Tuple[Optional[str], bool]:
        """Writes ``new_value`` if the key has ``compare_value``; returns ``(old_value, was_found)``."""
        before = self.get(key)
        if before == (compare_value, True):
            self._values[key] = new_value
        return before
