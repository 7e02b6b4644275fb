"""Exit codes of the commands. 0 means success."""

FAILED = 1
"""The job failed, a download was incomplete, or a check or deployment failed."""
REFUSED = 2
"""The API refused the request, or the arguments are invalid."""
UNREACHABLE = 3
"""No API is configured or reachable, or Modal is unreachable or rejects the token."""
INTERRUPTED = 130
"""Ctrl-C was pressed, and the job was cancelled."""
