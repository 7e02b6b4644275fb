"""Bounds one conversion: the steps that it takes, and the bytes of the graph that it writes.

A small file can ask for much. A subgraph has its nodes, inputs and links again in each instance, a PrimitiveNode
writes one text into many widgets, and a placeholder stands for a text of any length. All such work takes from one
budget before it is done.

The invariant: what is done for one step runs at most some dozens of lines of Python, whatever the file. So a lookup
uses a dict, and each loop over something of the file takes steps for its length.
"""

from typing import Any

from workflows.errors import NotConvertible

MOST_STEPS = 200_000
"""A step is a node, an input, a link that is followed, a value, or some characters of a text. The largest of 1,700
published files takes 7,000."""
MOST_BYTES = 4 * 1024 * 1024
"""Bytes in UTF-8 of the names, values and titles in the graph. The largest official template has 0.5 MB."""
CHARACTERS = 16
"""Characters of a text that are read in one step."""
COMPARED = 1_024
"""Characters of a text that is only compared, by one call of C, in one step."""
_OF_A_VALUE = 2
"""Bytes that each value has beyond its own text, for commas, brackets or quotes."""
_OF_A_FLOAT = 24


class Budget:
    """The `steps` that one conversion has taken, and the `size` of what it has written. Raises `NotConvertible`."""

    def __init__(self, most_steps: int = MOST_STEPS, most_bytes: int = MOST_BYTES) -> None:
        self._most_steps, self._most_bytes = most_steps, most_bytes
        self.steps = self.size = 0

    def step(self, count: int = 1) -> None:
        """Take this many steps."""
        self.steps += count
        if self.steps > self._most_steps:
            raise NotConvertible(
                f"the conversion takes more than {self._most_steps} steps (`max_conversion_steps`)",
                reason="too many steps",
                hint="use fewer instances of subgraphs and shorter texts, or export the workflow in API format",
            )

    def read(self, value: Any) -> None:
        """Take the steps of reading a value once."""
        self.step(1 + steps_of(value))

    def write(self, value: Any) -> None:
        """Take the bytes of a value of the graph."""
        self.size += size_of(value)
        if self.size > self._most_bytes:
            raise NotConvertible(
                f"the graph has more than {self._most_bytes} bytes (`max_conversion_bytes`)",
                reason="too many bytes",
                hint="use shorter texts in fewer nodes, or export the workflow in API format",
            )


def steps_of(value: Any) -> int:
    """Return the steps of reading a JSON value: one for each value in it, and those of its characters."""
    return size_of(value, CHARACTERS) // CHARACTERS


def size_of(value: Any, of_a_value: int = _OF_A_VALUE) -> int:
    """Return about how many bytes a JSON value has. Each value in it has `of_a_value` beyond its own text."""
    size, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        size += of_a_value
        if isinstance(one, str):
            # Without a copy of a text that is long and plain.
            size += len(one) if one.isascii() else len(one.encode(errors="replace"))
        elif isinstance(one, list | tuple):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, int):
            size += 1 + one.bit_length() // 3
        elif one is not None:
            size += _OF_A_FLOAT
    return size
