"""The time limits of the driver."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """Times in seconds.

    poll_s               between two polls of the history, the source of truth
    settle_s, settling_s between polls, and for how long, after a message that reports the end
    reconnect_s          before the first reconnect after the socket closed; doubled up to eight times this
    connect_s            for the first socket; without one the prompt is submitted all the same
    linger_s             for the last messages once history shows the end (SaveImageWebsocket's images)
    broken_s             for which failed requests are repeated: nothing listens, or the response is invalid
    silent_s             the same for requests that time out, since loading a model can delay every response
    absent_s             for which a prompt may be neither queued nor recorded before it is given up
    idle_s               for which it may be queued while nothing runs; then the execution thread is dead
    interrupt_every_s    between two interrupts, which can be lost
    interrupt_grace_s    until a prompt that ignores interrupts, or an engine that does not answer them, counts as stuck
    withdraw_s           for an abandoned prompt to leave ComfyUI's queue
    stall_s              without any message; None waits for ever
    """

    poll_s: float = 1.0
    settle_s: float = 0.05
    settling_s: float = 2.0
    reconnect_s: float = 0.25
    connect_s: float = 10.0
    linger_s: float = 1.0
    broken_s: float = 3.0
    silent_s: float = 120.0
    absent_s: float = 1.0
    idle_s: float = 30.0
    interrupt_every_s: float = 0.5
    interrupt_grace_s: float = 10.0
    withdraw_s: float = 1.0
    stall_s: float | None = 600.0
