"""Text that the editor makes when it exports: dynamic prompts, and placeholders in names of files.

A dynamic prompt is `{a|b}`: one of the options, drawn at random. Comments (`/* … */` and `// …`) are removed from it.
A placeholder is `%date:yyyy-MM-dd%` or `%Node.widget%`; what it does not recognize, the editor leaves as it is.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from workflows.editor.budget import Budget

FILE_NAME_CLASSES = frozenset(
    {
        *("CLIPSave", "LoraSave", "ModelSave", "SaveAnimatedPNG", "SaveAnimatedWEBP", "SaveAudio", "SaveAudioAdvanced"),
        *("SaveAudioMP3", "SaveAudioOpus", "SaveGLB", "SaveImage", "SaveImageAdvanced", "SaveLatent", "SaveSVGNode"),
        *("SaveVideo", "SaveWEBM", "VAESave"),
        "VHS_VideoCombine",
    }
)
"""The classes in whose `filename_prefix` the editor, or their pack's JavaScript, fills in placeholders."""
DEEPEST_CHOICES = 50
"""Choices inside each other in a dynamic prompt."""
MOST_EXACT = 2**53
"""The largest whole number that JavaScript keeps exactly."""
Draw = Callable[[int], int]
"""Returns a number from 0 to below its argument: which option of a dynamic prompt is taken."""
_END = object()
_LINE_END = re.compile(r"[\n\r\u2028\u2029]")
_MARK = re.compile(r"\\.|[{|}]|[^\\{|}]{1,65536}", re.DOTALL)
"""A brace or a line, or what is skipped: an escaped character, and pieces of plain text, since a search stops threads.
"""
_DATE_PARTS = re.compile(r"yyyy|yyy|yy|dd?|MM?|hh?|mm?|ss?")
_NOT_IN_FILE_NAMES = {ord(one): "_" for one in [*'/?<>\\:*|"', *map(chr, range(32)), "\x7f"]}
_PIECE = 64 * 1024
"""Characters that are replaced by one call, during which no other thread runs."""


def dynamic_prompt(text: str, draw: Draw, budget: Budget | None = None) -> str:
    """Return the text with each choice replaced by one of its options."""
    budget = budget or Budget()
    budget.read(text)
    return _unescaped(_Choices(_without_comments(text), draw, budget).drawn())


def _without_comments(text: str) -> str:
    """Remove comments. Each search goes on where the one before it ended, so the whole takes linear time."""
    parts: list[str] = []
    place, block, line = 0, text.find("/*"), text.find("//")
    while block >= 0 or line >= 0:
        if block >= 0 and (line < 0 or block < line):
            end = text.find("*/", block + 2)
            if end < 0:
                block = -1  # no later block ends either
                continue
            begin, after = block, end + 2
        else:
            found = _LINE_END.search(text, line)
            begin, after = line, found.start() if found else len(text)
        parts.append(text[place:begin])
        place = after
        block = text.find("/*", place) if 0 <= block < place else block
        line = text.find("//", place) if 0 <= line < place else line
    return "".join([*parts, text[place:]])


class _Choices:
    """The choices of a text. The places of all braces are found in one pass, whatever their depth."""

    def __init__(self, text: str, draw: Draw, budget: Budget) -> None:
        self._text, self._draw = text, draw
        self._begins: list[int] = []
        self._marks: list[list[int]] = []
        """For each choice the places of its opening brace, of the lines between its options, and of its end."""
        open_choices: list[list[int]] = []
        for found in _MARK.finditer(text):
            budget.step()
            place = found.start()
            if text[place] == "{":
                open_choices.append([place])
                if len(open_choices) <= DEEPEST_CHOICES + 1:
                    self._begins.append(place)
                    self._marks.append(open_choices[-1])
            elif text[place] == "|" and open_choices:
                open_choices[-1].append(place)
            elif text[place] == "}" and open_choices:
                open_choices.pop().append(place)
        for marks in open_choices:  # a choice may lack its closing brace
            marks.append(len(text))

    def drawn(self) -> str:
        parts: list[str] = []
        self._write(0, len(self._text), 0, parts)
        return "".join(parts)

    def _write(self, place: int, end: int, depth: int, parts: list[str]) -> None:
        if depth > DEEPEST_CHOICES:
            parts.append(self._text[place:end])
            return
        number = bisect_left(self._begins, place)
        while number < len(self._begins) and self._begins[number] < end:
            marks = self._marks[number]
            parts.append(self._text[place : marks[0]])
            option = self._draw(len(marks) - 1)
            self._write(marks[option] + 1, marks[option + 1], depth + 1, parts)
            place = marks[-1] + 1
            number = bisect_left(self._begins, place)
        parts.append(self._text[place:end])


def _unescaped(text: str) -> str:
    r"""Replace `\{`, `\|` and `\}` by the character alone."""
    parts: list[str] = []
    place, found = 0, text.find("\\")
    while found >= 0:
        if text[found + 1 : found + 2] in ("{", "|", "}"):
            parts.append(text[place:found])
            place = found + 1
        found = text.find("\\", found + 1)
    return "".join([*parts, text[place:]])


def fill_placeholders(
    text: str, now: datetime, value_of: Callable[[str, str], Any], budget: Budget | None = None
) -> str:
    """Fill in the placeholders. `value_of` returns the value of a node's widget, or raises KeyError."""
    budget = budget or Budget()
    budget.read(text)
    parts: list[str] = []
    place, begin = 0, text.find("%")
    while begin >= 0 and (end := text.find("%", begin + 1)) >= 0:
        if end == begin + 1:
            begin = end
            continue
        budget.step()
        filled = _filled(text[begin + 1 : end], now, value_of, budget)
        if filled is not None:
            parts += [text[place:begin], filled]
            place = end + 1
        begin = text.find("%", end + 1)
    return "".join([*parts, text[place:]])


def _filled(placeholder: str, now: datetime, value_of: Callable[[str, str], Any], budget: Budget) -> str | None:
    """Return what stands in place of a placeholder, or None if it stays."""
    inside = placeholder.split(".", 2)
    if len(inside) != 2:
        if not placeholder.startswith("date:"):
            return None
        budget.step(len(inside[0]))
        return date_text(inside[0][5:], now)
    try:
        value = value_of(inside[0], inside[1])
    except KeyError:
        return None
    budget.read(value)
    return _as_file_name(script_text(value))


def _as_file_name(text: str) -> str:
    return "".join(text[start : start + _PIECE].translate(_NOT_IN_FILE_NAMES) for start in range(0, len(text), _PIECE))


def date_text(form: str, now: datetime) -> str:
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        name = match[0]
        if name == "yyy":
            return name  # as the editor does
        if name[0] == "y":
            return str(now.year)[-len(name) :]
        return str(numbers[name[0]]).zfill(len(name))

    return _DATE_PARTS.sub(part, form)


def script_number(value: int) -> int | None:
    """Return a whole number beyond `MOST_EXACT` with the digits that JavaScript writes, or None if it is infinite."""
    try:
        return int(Decimal(repr(float(value))))
    except OverflowError:
        return None


def script_text(value: Any, length: int | None = None) -> str:
    """Return a JSON value as JavaScript turns it into text; of a list at most the first `length` characters."""
    if not isinstance(value, list):
        return _scalar_text(value)
    texts = ("" if one is None else _scalar_text(one) for one in _leaves(value))
    if length is None:
        return ",".join(texts)
    # As many members have at least `length` commas between them.
    return ",".join(text[:length] for text in islice(texts, length + 1))[:length]


def _leaves(value: list[Any]) -> Iterator[Any]:
    """Yield the members of a list, for a list among them its own members, and for an empty one an empty text."""
    waiting = [iter(value)]
    while waiting:
        one = next(waiting[-1], _END)
        if one is _END:
            waiting.pop()
        elif isinstance(one, list) and one:
            waiting.append(iter(one))
        else:
            yield "" if isinstance(one, list) else one


def _scalar_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        if 1e-6 <= abs(value) < 1:
            return format(Decimal(repr(value)), "f")
        return re.sub(r"e([+-])0+", r"e\1", repr(value))
    return "[object Object]" if isinstance(value, dict) else str(value)
