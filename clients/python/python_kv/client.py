"""The store under the name of its one-request calls."""

from .operations import Operations


class KVClient(Operations):
    """A client of the node at ``server_url``, which must lead.

    The operations and errors of :class:`python_kv.KVStore`; it may be used by several threads.

    :param server_url: the node, as ``http://localhost:8080`` or ``localhost:8080``
    :param timeout_ms: how long an operation may take. It ends at most a second later.
    """

    def __init__(self, server_url: str, timeout_ms: int = 30_000) -> None:
        super().__init__(server_url, 0, timeout_ms)
        self.server_url = self._node.url
