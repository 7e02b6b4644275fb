"""How patient the driver is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """Times in seconds.

    poll_s               between two looks at history, which alone tells the truth
    settle_s, settling_s between looks, and for how long, after a message that announces the end
    reconnect_s          before the first new try after the socket closed; doubled up to eight times it
    connect_s            for the first socket; without one the prompt is submitted all the same
    linger_s             for the last messages once history shows the end (SaveImageWebsocket's pictures)
    broken_s             requests that fail are repeated so long: nothing listens, or it answers nonsense
    silent_s             the same for requests that time out: loading a model can hold every answer up
    absent_s             how long a prompt may be neither queued nor recorded before it is given up
    idle_s               how long it may wait while nothing runs: then the thread that executes is dead
    interrupt_every_s    an interrupt can be lost, so it is repeated
    interrupt_grace_s    until a prompt that ignores interrupts, or an engine that does not answer them, counts as stuck
    withdraw_s           for a prompt that nobody follows any more to leave ComfyUI's queue
    stall_s              without any sign of life; None waits for ever
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
