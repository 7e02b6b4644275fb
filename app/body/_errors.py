"""What can be wrong with a body, or with one of its strings."""


class BodyTooLarge(ValueError):
    """The body, what is left of it without its long strings, or the number of its values exceeds its limit."""


class TextTooLong(ValueError):
    """A string that has to be held in memory exceeds its limit, or all of them together theirs."""


class BadText(ValueError):
    """A string that is not JSON, or has half of a surrogate pair: JSON can write it, UTF-8 cannot, so nothing could
    store it."""


class BadBase64(ValueError):
    """Not base64; the message says what is wrong."""
