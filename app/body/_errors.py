"""Errors of a request body and of its strings."""


class BodyTooLarge(ValueError):
    """The size of the body, its size without long strings, or the number of its values exceeds a limit."""


class TextTooLong(ValueError):
    """A string that has to be held in memory exceeds its limit, or all such strings exceed their total."""


class BadText(ValueError):
    """A string is not valid JSON, or has a lone surrogate, which JSON can escape and UTF-8 cannot encode."""


class BadBase64(ValueError):
    """A string is not base64. The message says why."""
