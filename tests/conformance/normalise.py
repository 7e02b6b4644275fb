"""The comparable parts of two recordings of one scenario. Pure: a recording in, a transcript out, both JSON.

Ids, times, counters and random names become symbols, numbered by first appearance, so that it is still compared *which*
id or file appears where. Results whose order ComfyUI leaves open, independent nodes and sets sent as lists, are sorted.
ComfyUI's own texts (tooltips, tracebacks) are dropped.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.conformance.runs import grouped, sorted_steps
from tests.conformance.twins import settled

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAMED = re.compile(
    rf"(?P<id>(?i:{_UUID})|\b[0-9a-f]{{32}}\b)"
    r"|(?P<random>(?<![a-z])up_\d+|(?<=hällo )\d+)"
    r"|(?P<file>\b[A-Za-z][\w-]*?(?<!_up)_\d{5}(?=_?\.))"
)
_TEMP = re.compile(r"ComfyUI_temp_[a-z]{5}")
_OWN_CLASSES = {
    "WireSlowSteps": "LiteSlowSteps",
    "WireError": "LiteRaise",
    "WireBlockingSleep": "LiteHang",
    "WireUI": "LiteEmit",
}
_RANDOM_BYTE = re.compile(r"\b0x[0-9a-f]{2}\b")
_OWN_WORDS = re.compile(r"^(wire|lite): ")
_CLOCK_KEYS = frozenset({"timestamp", "execution_start_time", "execution_end_time", "priority"})
_LEFT_OUT = frozenset({"tooltip", "workflow", "create_time"})
_CONTENT_RANGE_SIZE = re.compile(r"/\d+$")
_SETS = frozenset({"nodes", "executed", "current_outputs", "dependent_outputs", "outputs_to_execute"})
_HEADERS = ("Content-Type", "Content-Disposition", "Content-Range", "Accept-Ranges")
_VARYING = frozenset({"value"})


def normalise(recording: Mapping[str, Any], *, varying_progress: bool = False) -> dict[str, Any]:
    """Return the transcript; with `varying_progress` the progress of a node before an event is left open."""
    graphs = _graphs(recording["http"])
    recording = settled(recording, graphs)
    sockets = {"main": recording["ws"], **recording.get("ws_other", {})}
    transcript: dict[str, Any] = {
        "http": [_call(entry) for entry in recording["http"]],
        "sockets": {
            name: _socket([_frame(entry) for entry in log if entry["type"] in ("text", "binary")], graphs)
            for name, log in sockets.items()
        },
    }
    if varying_progress:
        transcript["sockets"] = {name: _vague(socket) for name, socket in transcript["sockets"].items()}
    symbols = _Symbols()
    named: dict[str, Any] = symbols.walk(transcript)
    return named


def _graphs(http: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the graph of every accepted prompt by prompt id."""
    found = {}
    for entry in http:
        request, response = entry.get("request"), entry.get("response")
        if entry["path"] == "/prompt" and isinstance(response, dict) and "prompt_id" in response:
            found[response["prompt_id"]] = request["prompt"] if isinstance(request, dict) else {}
    return found


def _call(entry: Mapping[str, Any]) -> dict[str, Any]:
    headers = {name: entry.get("headers", {})[name] for name in _HEADERS if name in entry.get("headers", {})}
    if headers.get("Content-Type", "").startswith(("application/json", "application/octet-stream")):
        del headers["Content-Type"]
    if "Content-Range" in headers:
        headers["Content-Range"] = _CONTENT_RANGE_SIZE.sub("/<size>", headers["Content-Range"])
    response = entry.get("response", entry.get("response_keys"))
    if isinstance(response, dict) and "base64_first_200" in response:
        response = "<bytes>"
    call = {
        "call": f"{entry['method']} {entry['path']}",
        "note": entry.get("note", ""),
        "status": entry["status"],
        "headers": headers,
        "response": _plain(response),
    }
    return {key: value for key, value in call.items() if value not in ("", {}, None) or key == "response"}


def _plain(value: Any, key: str = "") -> Any:
    """Remove times, ComfyUI's own texts, and the order of sets."""
    if key == "current_inputs":
        return sorted(value)
    if isinstance(value, dict):
        return {name: _plain(inner, name) for name, inner in value.items() if name not in _LEFT_OUT}
    if key in _CLOCK_KEYS:
        return "<clock>"
    if key == "number":
        return "<number>" if value >= 0 else "<negative>"
    if isinstance(value, list):
        return _plain_list(value, key)
    if isinstance(value, str):
        return _plain_text(value, key)
    if isinstance(value, float) and not math.isfinite(value):
        return f"<{value}>"
    return value


def _plain_list(value: list[Any], key: str) -> Any:
    if key == "traceback":
        return "<traceback>"
    if _is_prompt_tuple(value):
        number, prompt_id, _, extra, outputs = value
        return [_plain(number, "number"), prompt_id, "<graph>", _plain(extra), sorted(outputs)]
    plain = [_plain(inner) for inner in value]
    if key in _SETS or key == "errors":
        return sorted(plain, key=str)
    return plain


def _is_prompt_tuple(value: list[Any]) -> bool:
    return len(value) == 5 and isinstance(value[2], dict) and isinstance(value[4], list)


def _plain_text(value: str, key: str) -> str:
    if key == "exception_message":
        return _RANDOM_BYTE.sub("<byte>", _OWN_WORDS.sub("", value.partition("\n")[0]))
    if key == "node_type":
        return _OWN_CLASSES.get(value, value)
    return value


def _frame(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a frame as {"type", "data"}; a binary frame by its decoded header."""
    if entry["type"] == "binary":
        decoded = {key: value for key, value in entry["data"]["decoded"].items() if key != "magic"}
        return {"type": "binary", "data": decoded}
    message = entry["data"]
    data = message.get("data")
    if message["type"] == "feature_flags":
        data = {"supports_preview_metadata": data["supports_preview_metadata"]}
    return {"type": message["type"], "data": data}


def _socket(frames: list[dict[str, Any]], graphs: Mapping[str, Any]) -> dict[str, Any]:
    """Return one socket's messages: changes of the queue's length, the messages of each prompt, and the others."""
    lengths: list[int] = []
    rest = []
    for frame in frames:
        if frame["type"] == "status":
            remaining = frame["data"]["status"]["exec_info"]["queue_remaining"]
            if lengths[-1:] != [remaining]:
                lengths.append(remaining)
        else:
            rest.append(frame)
    runs, others = grouped(rest, graphs)
    return {
        "queue_remaining": lengths,
        "runs": [{"prompt_id": key, "messages": [_plain(message) for message in run]} for key, run in runs.items()],
        "others": [_plain(frame) for frame in others],
    }


def _vague(socket: dict[str, Any]) -> dict[str, Any]:
    """Keep each kind of a node's message once and without values, with the steps sorted and the queue's lengths as a
    set."""
    for run in socket["runs"]:
        seen: list[Any] = []
        for message in run["messages"]:
            shape = _without_values(message)
            if shape not in seen:
                seen.append(shape)
        run["messages"] = sorted_steps(seen)
    others: list[Any] = []
    for message in socket["others"]:
        if message not in others:
            others.append(message)
    return {**socket, "others": others, "queue_remaining": sorted(set(socket["queue_remaining"]))}


def _without_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "<varies>" if key in _VARYING else _without_values(inner) for key, inner in value.items()}
    return value


class _Symbols:
    """Replaces ids and file names by symbols in order of appearance, with dictionaries sorted by key."""

    def __init__(self) -> None:
        self._symbols: dict[str, str] = {}
        self._counts: dict[str, Iterator[int]] = {}

    def walk(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._text(key): self.walk(value[key]) for key in sorted(value)}
        if isinstance(value, list):
            return [self.walk(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        return _NAMED.sub(self._symbol, text)

    def _symbol(self, match: re.Match[str]) -> str:
        name = match[0]
        if name not in self._symbols:
            family = self._family(match)
            number = next(self._counts.setdefault(family, iter(range(1, 1_000_000))))
            self._symbols[name] = f"<{family} {number}>"
        return self._symbols[name]

    def _family(self, match: re.Match[str]) -> str:
        if match["file"]:
            return _TEMP.sub("ComfyUI_temp", match[0]).rsplit("_", 1)[0]
        return "id" if match["id"] else "random"
