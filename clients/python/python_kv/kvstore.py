"""The store as one node of a cluster offers it.

Every write is a command in the replicated log, and its result is what applying it yielded. Every
read is confirmed by a majority. Nothing is replayed here, so an operation costs one request
whatever the length of the history, and any number of clients may write at once.
"""

from .errors import NOT_DONE, NetworkError
from .node import ANSWER_TIMEOUT
from .operations import Operations


class KVStore(Operations):
    """A key-value store behind the node at ``url``.

    Operations have to go to the leader: another node raises :class:`NotLeaderError`. An object may
    be used by several threads; each has a connection of its own.

    :param raft_bridge_url: the node, as ``http://localhost:8080`` or ``localhost:8080``
    :param server_id: a number of the caller's choice, noted in the log with each write
    :param timeout_ms: how long an operation may take until it is committed. It ends at most a
        second later. A node that hangs is found out within 5 s.
    """

    def __init__(self, raft_bridge_url: str, server_id: int = 0, timeout_ms: int = 30_000) -> None:
        super().__init__(raft_bridge_url, server_id, timeout_ms)
        self.bridge_url = self._node.url

    def is_leader(self) -> bool:
        """Whether the node leads and serves.

        :raises NetworkError: it does not answer, or something else than a node does
        """
        answer = self._node.ask("/is_leader", ANSWER_TIMEOUT)
        if not answer.is_done:
            raise NetworkError(f"{self.bridge_url}: {answer.explanation}", NOT_DONE)
        leads = answer.fields.get("is_leader")
        if not isinstance(leads, bool):
            raise self._node.foreign("/is_leader", "its is_leader is neither true nor false")
        return leads
