"""The policy of repeated requests: which are repeated, how often, and after which pause."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Protocol

import stamina

from comfyui_modal_client._errors import ApiProblem, ApiUnreachable, TransferFailed

_REFUSED_FOR_NOW = (429, 503)
"""Answers of a server that has not begun what was asked."""
_TRANSIENT = (*_REFUSED_FOR_NOW, 500, 502, 504)
"""Answers that say nothing about the request, and may be others a moment later."""
_JITTER_S = 0.3


class Attempts(Protocol):
    """The attempts of one request, each a context manager that swallows an error after which another one follows."""

    def __iter__(self) -> Iterator[stamina.Attempt]: ...
    def __aiter__(self) -> AsyncIterator[stamina.Attempt]: ...


@dataclass(frozen=True, slots=True)
class Retries:
    """A request is sent at most `attempts` times.

    The pauses grow from 0.1 s to 5 s, or are what `Retry-After` says. An answer with a `Retry-After` of more than
    `max_retry_after_s` seconds is final.
    """

    attempts: int
    max_retry_after_s: float

    def attempts_of(self, *, is_repeatable: bool) -> Attempts:
        """Return the attempts. A request that is not repeatable is sent again only if nothing came of it."""
        return stamina.retry_context(
            on=self._pause_after if is_repeatable else self._pause_after_refusal,
            attempts=self.attempts,
            timeout=None,
            wait_jitter=_JITTER_S,
        )

    def _pause_after(self, error: Exception) -> bool | float:
        """Return whether to repeat the request after this error, or the seconds to wait first."""
        match error:
            case ApiUnreachable():
                return True
            case ApiProblem(status=status) | TransferFailed(status=status) if status in _TRANSIENT:
                return self._pause(error)
            case _:
                return False

    def _pause_after_refusal(self, error: Exception) -> bool | float:
        return isinstance(error, ApiProblem) and error.status in _REFUSED_FOR_NOW and self._pause(error)

    def _pause(self, error: ApiProblem | TransferFailed) -> bool | float:
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after <= self.max_retry_after_s else False
