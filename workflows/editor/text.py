"""Text that the editor makes when it exports: dynamic prompts, and placeholders in names of files.

A dynamic prompt is `{a|b}`: one of the options, drawn at random. Comments (`/* … */` and `// …`) are removed from it.
A placeholder is `%date:yyyy-MM-dd%` or `%Node.widget%`; what it does not recognize, the editor leaves as it is.
"""

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

FILE_NAME_CLASSES = frozenset(
    {
        *("CLIPSave", "LoraSave", "ModelSave", "SaveAnimatedPNG", "SaveAnimatedWEBP", "SaveAudio", "SaveAudioAdvanced"),
        *("SaveAudioMP3", "SaveAudioOpus", "SaveGLB", "SaveImage", "SaveImageAdvanced", "SaveLatent", "SaveSVGNode"),
        *("SaveVideo", "SaveWEBM", "VAESave"),
    }
)
"""The classes in whose `filename_prefix` the editor fills in placeholders."""
DEEPEST_CHOICES = 50
"""Choices inside each other in a dynamic prompt."""
Draw = Callable[[int], int]
"""Returns a number from 0 to below its argument: which option of a dynamic prompt is taken."""
_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)
_ESCAPED = re.compile(r"\\([{}|])")
_PLACEHOLDER = re.compile(r"%([^%]+)%")
_DATE_PARTS = re.compile(r"yyyy|yy|dd?|MM?|hh?|mm?|ss?")
_NOT_IN_FILE_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def dynamic_prompt(text: str, draw: Draw) -> str:
    """Return the text with each choice replaced by one of its options."""
    return _ESCAPED.sub(r"\1", _drawn(_COMMENTS.sub("", text), draw, 0))


def _drawn(text: str, draw: Draw, depth: int) -> str:
    if depth > DEEPEST_CHOICES:
        return text
    parts: list[str] = []
    place = 0
    while place < len(text):
        if text[place] == "\\" and place + 1 < len(text):
            parts.append(text[place : place + 2])
            place += 2
        elif text[place] == "{":
            options, place = _options(text, place + 1)
            parts.append(_drawn(options[draw(len(options))], draw, depth + 1))
        else:
            parts.append(text[place])
            place += 1
    return "".join(parts)


def _options(text: str, place: int) -> tuple[list[str], int]:
    """Return the options of the choice that begins here, and the place after it. It may lack its closing brace."""
    options, start, depth = [], place, 0
    while place < len(text):
        character = text[place]
        if character == "\\" and place + 1 < len(text):
            place += 2
            continue
        if character == "}" and depth == 0:
            break
        if character == "|" and depth == 0:
            options.append(text[start:place])
            start = place + 1
        depth += (character == "{") - (character == "}")
        place += 1
    return [*options, text[start:place]], place + 1


def fill_placeholders(text: str, now: datetime, value_of: Callable[[str, str], Any]) -> str:
    """Fill in the placeholders. `value_of` returns the value of a node's widget, or raises KeyError."""

    def filled(match: re.Match[str]) -> str:
        inside = match[1].split(".")
        if len(inside) != 2:
            return date_text(inside[0][5:], now) if inside[0].startswith("date:") else match[0]
        try:
            return _NOT_IN_FILE_NAMES.sub("_", script_text(value_of(inside[0], inside[1])))
        except KeyError:
            return match[0]

    return _PLACEHOLDER.sub(filled, text)


def date_text(form: str, now: datetime) -> str:
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        name = match[0]
        if name[0] == "y":
            return str(now.year)[-len(name) :]
        return str(numbers[name[0]]).zfill(len(name))

    return _DATE_PARTS.sub(part, form)


def script_text(value: Any) -> str:
    """Return a JSON value as JavaScript turns it into text."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        if 1e-6 <= abs(value) < 1:
            return format(Decimal(repr(value)), "f")
        return re.sub(r"e([+-])0+", r"e\1", repr(value))
    if isinstance(value, list):
        return ",".join("" if one is None else script_text(one) for one in value)
    return "[object Object]" if isinstance(value, dict) else str(value)
