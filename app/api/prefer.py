"""RFC 7240, `Prefer: wait=N`: how long the client of a submission would wait for the job's end."""

import re

from starlette.requests import Request

PREFERENCE_APPLIED = "preference-applied"
MAX_HEADER = 1_000
"""Characters of the header that are read."""
_WAIT = re.compile(r'wait\s*=\s*(?:"(\d{1,9})"|(\d{1,9}))\s*(?:;.*)?', re.IGNORECASE | re.ASCII | re.DOTALL)


def preferred_wait(request: Request, *, at_most: int) -> int | None:
    """Return the seconds to wait, at most `at_most`; None without a usable preference.

    A server may ignore any preference, so a malformed one is no error.
    """
    header = ",".join(request.headers.getlist("prefer"))[:MAX_HEADER]
    for preference in header.split(","):
        if (match := _WAIT.fullmatch(preference.strip())) is not None:
            # RFC 7240, 2: of a preference that is given several times, the first one counts.
            return min(int(match[1] or match[2]), at_most) or None
    return None
