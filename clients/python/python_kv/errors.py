"""The errors, and whether the operation may have been done all the same."""

from typing import Optional

# Nothing else of requests is used: programs written for the older package catch its exceptions.
import requests

#: The operation was certainly not done: it may be repeated.
NOT_DONE = "not_done"
#: The operation may have been done or not.
UNKNOWN = "unknown"


class NotLeaderError(Exception):
    """The node asked does not lead. The operation was not done: ask the leader.

    ``leader`` is the leader's address (``host:port``), where the node knows it.
    """

    #: For programs that treat this error and :class:`CommitFailedError` alike.
    outcome = NOT_DONE

    def __init__(
        self, message: str = "this node does not lead", leader: Optional[str] = None
    ) -> None:
        super().__init__(message)
        self.leader = leader


class NoLeaderError(NotLeaderError):
    """The node asked knows no leader. The operation was not done: try again after the election."""


class CommitFailedError(Exception):
    """The operation was not done, or it is unknown whether it was.

    ``outcome`` tells the two apart: ``"not_done"`` or ``"unknown"``.
    """

    def __init__(self, message: str = "not committed", outcome: str = UNKNOWN) -> None:
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

    def __init__(self, message: str, outcome: str = UNKNOWN) -> None:
        requests.RequestException.__init__(self, message)
        self.outcome = outcome


class AnswerError(NetworkError):
    """There is an answer, but not of a raft-kv node: another server, or a damaged answer.

    Its status proves nothing. The outcome is ``"unknown"``, except after a redirect that asks for
    the same request elsewhere: it is never followed.
    """
