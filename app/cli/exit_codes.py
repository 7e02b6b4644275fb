"""What a command's exit status says. 0: done."""

FAILED = 1
"""The job failed, or its output did not arrive whole; a check or a deploy failed."""
REFUSED = 2
"""By the API, or for the command's arguments."""
UNREACHABLE = 3
"""No API is known, or none answers; Modal does not, or takes no token of ours."""
INTERRUPTED = 130
"""Ctrl-C: the job was cancelled."""
