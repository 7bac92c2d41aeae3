"""What can go wrong, and whether the operation may have been done all the same."""

from typing import Optional

import requests

#: The operation was certainly not done: it may be repeated.
NOT_DONE = "not_done"
#: Nobody can tell whether the operation was done.
UNKNOWN = "unknown"


class NotLeaderError(Exception):
    """The node asked does not lead. The operation was not done: ask the leader.

    ``leader`` is the leader's address (``host:port``), where the node knows it.
    """

    def __init__(self, message: str = "this node does not lead", leader: Optional[str] = None):
        super().__init__(message)
        self.leader = leader


class CommitFailedError(Exception):
    """The operation was not done, or nobody knows whether it was.

    ``outcome`` tells the two apart: ``"not_done"`` or ``"unknown"``.
    """

    def __init__(self, message: str = "not committed", outcome: str = UNKNOWN):
        super().__init__(message)
        self.outcome = outcome

    @property
    def is_unknown(self) -> bool:
        """Whether the operation may have been done."""
        return self.outcome == UNKNOWN


class NetworkError(CommitFailedError, requests.RequestException):
    """The node could not be reached, or its answer was lost.

    Also a ``requests.RequestException``, which is what programs written for the older package
    catch here.
    """

    def __init__(self, message: str, outcome: str = UNKNOWN):
        requests.RequestException.__init__(self, message)
        self.outcome = outcome
