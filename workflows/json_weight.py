"""The weight of a JSON text: a measure of the time and the memory that parsing it takes, known before it is parsed."""

WEIGHT_OF_PART = 32
"""The weight of a list or an object of a JSON text, in addition to its bytes: to parse 60 KB of empty lists takes 8 ms,
to parse one text of that length 0.02 ms."""


def weight(text: bytes | str) -> int:
    """Return the length of a JSON text, in which its lists and objects count by the time to parse them."""
    # Brackets inside strings count too: it is a limit, and counting them costs next to nothing.
    parts = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    return len(text) + WEIGHT_OF_PART * parts
