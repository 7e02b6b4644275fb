"""What the command line says when it cannot do as asked."""

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra.cli.arguments import NoConnection, Target, webhook_secret_of
from infra.cli.client import ApiProblem
from infra.cli.jobs import print_logs
from infra.cli.output import REFUSED
from infra.cli.root import ends_well
from infra.cli.webhooks import Listening

FAULTS = [
    {"pointer": "/a", "detail": "a is wrong", "hint": "mend a"},
    {"pointer": "/b", "detail": "b is wrong", "hint": "mend b"},
]


def said(problem: Mapping[str, object], capsys: pytest.CaptureFixture[str]) -> list[str]:
    @ends_well
    def command() -> int:
        raise ApiProblem(422, problem)

    assert command() == REFUSED
    return capsys.readouterr().err.splitlines()


def test_a_refusal_tells_each_fault_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """What helps stands below the fault that it is for."""
    problem = {"type": "/problems/x", "detail": "a is wrong (and 1 more)", "hint": "mend a", "errors": FAULTS}
    assert said(problem, capsys) == [
        "refused: a is wrong (and 1 more)",
        "  → mend a",
        "/b: b is wrong",
        "  → mend b",
    ]


def test_a_wrong_field_needs_no_hint_to_see_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand there already."""
    problem = {"type": "/problems/validation-error", "detail": "/a: a is wrong", "hint": "see errors for each field"}
    assert said(problem, capsys) == ["refused: /a: a is wrong"]


HOSTILE = "a\x1b]52;c;cHdu\x1b\\ \x1b[2J\x9b2J\x07\r\u202eb\tc\n"
HARMLESS = r"a\x1b]52;c;cHdu\x1b\ \x1b[2J\x9b2J\x07\r\u202eb" + "\tc\n"


def test_a_terminal_obeys_no_text_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    """A graph's author writes the ids of nodes, which errors name: they set no clipboard, and clear no screen."""
    assert said({"type": "/problems/x", "detail": HOSTILE}, capsys)[0] == f"refused: {HARMLESS.rstrip()}".expandtabs()


def test_a_log_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """An engine's log names nodes as the graph does; its lines and tabs stay."""

    class Logs(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write(HOSTILE.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Logs) as server:
        serving = Thread(target=server.handle_request)
        serving.start()
        print_logs((f"http://127.0.0.1:{server.server_port}", "key"), "job", None)
        serving.join()
    assert capsys.readouterr().out == HARMLESS


def test_an_event_may_say_anything(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are no styles, and end nothing."""
    Listening(0, secret=None).receive({}, b'{"type": "[/x]", "id": "[red]\\u001b[2J", "data": {"error": "\\u001b[2J"}}')
    assert capsys.readouterr().out.splitlines() == [r"not verified [/x] [red]\x1b[2J", r"  error \x1b[2J"]


def test_without_an_api_the_folder_is_named(tmp_path: Path) -> None:
    """It is most often another folder in which `up` runs."""
    with pytest.raises(NoConnection, match=f"nothing runs in {tmp_path} .*connection.json"):
        Target(data=tmp_path).resolve()
    with pytest.raises(NoConnection, match=f"nothing runs in {tmp_path} .*connection.json"):
        webhook_secret_of(tmp_path)
