"""Client of the raft-kv replicated key-value store.

from python_kv import KVStore

kv = KVStore("http://localhost:8080", server_id=0)
previous_value, was_found = kv.put("hello", "world")
value, found = kv.get("hello")
old_value, was_found = kv.cas("hello", "world", "there")

Use SessionClient for several nodes, and for writes that are repeated and done once.
"""

from .client import KVClient
from .datastore import DataStore
from .errors import (
    AnswerError,
    CommitFailedError,
    NetworkError,
    NoLeaderError,
    NotLeaderError,
)
from .kvstore import KVStore
from .session import SessionClient

__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "CommitFailedError",
    "DataStore",
    "KVClient",
    "KVStore",
    "NetworkError",
    "NoLeaderError",
    "NotLeaderError",
    "SessionClient",
]
