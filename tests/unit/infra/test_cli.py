"""How the command line reports refusals, errors and text from others."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from rich.table import Table

from comfyui_modal_client import ApiProblem, ApiUnreachable, DownloadFailed
from infra.cli.arguments import Target, webhook_secret_of
from infra.cli.explain import explain, explain_unexpected
from infra.cli.jobs import logs
from infra.cli.output import FAILED, REFUSED, UNREACHABLE, Refused, Terminal
from infra.cli.root import main
from infra.cli.webhooks import Listening
from infra.cloud.port import CloudUnreachable, NotDeployed
from infra.local.data_folder import UpRefused
from infra.manifests import ROOT, BadManifest
from infra.models.sync import BadLock
from storage.errors import ObjectNotFound
from tests.support.commands import run_command
from tests.support.environment import clean_environment

FAULTS = [
    {"pointer": "/a", "detail": "a is wrong", "hint": "mend a"},
    {"pointer": "/b", "detail": "b is wrong", "hint": "mend b"},
]


def lines(problem: Mapping[str, object], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert explain(ApiProblem(422, problem)) == REFUSED
    return capsys.readouterr().err.splitlines()


def test_a_refusal_lists_each_error_with_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal prints each error with its hint on the line below."""
    problem = {"type": "/problems/x", "detail": "a is wrong (and 1 more)", "hint": "mend a", "errors": FAULTS}
    assert lines(problem, capsys) == [
        "refused: a is wrong (and 1 more)",
        "  → mend a",
        "/b: b is wrong",
        "  → mend b",
    ]


def test_the_hint_to_see_the_fields_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A validation error that already shows its fields is printed without the hint to see them."""
    problem = {
        "type": "/problems/validation-error",
        "detail": "/a: a is wrong",
        "hint": "see detail, and errors for each field",
    }
    assert lines(problem, capsys) == ["refused: /a: a is wrong"]


HOSTILE = "a\x1b]52;c;cHdu\x1b\\ \x1b[2J\x9b2J\x07\r\u202eb\tc\n"
HARMLESS = r"a\x1b]52;c;cHdu\x1b\ \x1b[2J\x9b2J\x07\r\u202eb" + "\tc\n"


def test_control_characters_in_an_error_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in an error message, which may repeat node ids of a graph, are printed escaped."""
    assert lines({"type": "/problems/x", "detail": HOSTILE}, capsys)[0] == f"refused: {HARMLESS.rstrip()}".expandtabs()


def test_a_table_is_printed_without_control_characters_and_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Names in a table, such as a GPU's name from an engine, are printed without control characters and markup."""
    table = Table("gpu")
    table.add_row("\x1b]52;c;cHdu\x1b\\ [link=x]L4[/link]")
    Terminal().print(table)
    assert r"\x1b]52;c;cHdu\x1b\ [link=x]L4[/link]" in capsys.readouterr().out


def test_a_log_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """An engine log is printed with its control characters escaped and its line breaks and tabs kept."""

    class Logs(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; charset=utf-8")
            self.end_headers()
            self.wfile.write(HOSTILE.encode())

        def log_message(self, *_: object) -> None:
            """Suppress the request log."""

    with HTTPServer(("127.0.0.1", 0), Logs) as server:
        serving = Thread(target=server.handle_request)
        serving.start()
        logs("job", target=Target(f"http://127.0.0.1:{server.server_port}", "key"))
        serving.join()
    assert capsys.readouterr().out == HARMLESS


def test_an_event_is_printed_as_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Markup and control characters in a received event are printed as plain text."""
    Listening(0, secret=None).receive({}, b'{"type": "[/x]", "id": "[red]\\u001b[2J", "data": {"error": "\\u001b[2J"}}')
    assert capsys.readouterr().out.splitlines() == [r"not verified [/x] [red]\x1b[2J", r"  error \x1b[2J"]


def test_without_an_api_the_folder_is_named(tmp_path: Path) -> None:
    """Without a running API the error names the folder that was searched, because `up` often runs in another one."""
    with pytest.raises(Refused, match=f"nothing runs in {tmp_path} .*connection.json") as refused:
        Target(data=tmp_path).client().__enter__()
    assert refused.value.code == UNREACHABLE
    with pytest.raises(Refused, match=f"nothing runs in {tmp_path} .*connection.json"):
        webhook_secret_of(tmp_path)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ApiUnreachable("gone"), UNREACHABLE),
        (CloudUnreachable("no token"), UNREACHABLE),
        (DownloadFailed("other bytes"), FAILED),
        (NotDeployed("no app"), FAILED),
        (ObjectNotFound("k"), FAILED),
        (Refused("--workers must be at least 1"), REFUSED),
        (UpRefused("in use"), REFUSED),
        (BadManifest("no TOML"), REFUSED),
        (BadLock("no JSON"), REFUSED),
    ],
)
def test_an_expected_error_becomes_a_message(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """An expected error is printed to standard error, and its kind decides the exit code."""
    assert explain(error) == code
    assert capsys.readouterr().err.strip() == str(error)


@pytest.mark.parametrize("source", ["option", "variable", "folder"])
def test_a_dead_api_is_named_and_nothing_else_printed(
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A command that gets no answer prints the URL, the reason and where the URL comes from, and no retries."""
    words, named = ["jobs", "list", "--data", str(tmp_path)], f"{tmp_path}/connection.json, whose `comfyui-modal up`"
    if source == "folder":
        (tmp_path / "connection.json").write_text(json.dumps({"api_url": "http://127.0.0.1:9", "api_key": "key"}))
    elif source == "option":
        words, named = [*words, "--api-url", "http://127.0.0.1:9", "--api-key", "key"], "--api-url: is the API running"
    else:
        monkeypatch.setenv("COMFYUI_MODAL_API_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("COMFYUI_MODAL_API_KEY", "key")
        named = "COMFYUI_MODAL_API_URL: is the API running"
    assert main(words) == UNREACHABLE
    problem, advice = capsys.readouterr().err.splitlines()
    assert problem.startswith("http://127.0.0.1:9 cannot be reached: ")
    assert advice.startswith(f"  → it is that of {named}"), advice
    assert caplog.records == []


@pytest.mark.parametrize(
    ("url_of_folder", "flags", "refusal"),
    [
        ("https://elsewhere.example", ("--api-key", "key"), "names https://elsewhere.example, which is not on this"),
        ("http://[", ("--api-key", "key"), "names http://[, which is not on this machine"),
        ("http://127.0.0.1:9", ("--api-url", "http://127.0.0.1:8"), "no key is known for http://127.0.0.1:8"),
    ],
)
def test_a_key_is_not_sent_to_a_url_of_another_source(
    url_of_folder: str, flags: tuple[str, str], refusal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A given key is not sent where a folder's file says, nor the key in that file to a given URL."""
    (tmp_path / "connection.json").write_text(json.dumps({"api_url": url_of_folder, "api_key": "key-of-up"}))
    assert main(["jobs", "list", "--data", str(tmp_path), *flags]) == REFUSED
    assert refusal in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--api-key", "key"), ("--api-url", "http://127.0.0.1:9/")])
def test_half_an_address_is_completed_for_this_machine(
    flags: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A given key is sent to a running `up`, and its key to the same URL."""
    (tmp_path / "connection.json").write_text(json.dumps({"api_url": "http://127.0.0.1:9", "api_key": "key-of-up"}))
    assert main(["jobs", "list", "--data", str(tmp_path), *flags]) == UNREACHABLE
    assert capsys.readouterr().err.startswith("http://127.0.0.1:9")


def test_tab_completion_is_installed(tmp_path: Path) -> None:
    """`--install-completion` writes a script that completes commands and flags, and no configuration is needed."""
    environment = clean_environment() | {"HOME": str(tmp_path)}
    done = run_command("infra.cli", "--install-completion", "--shell", "bash", environment=environment)
    assert done.returncode == 0, done.stderr
    (script,) = (tmp_path / ".local").rglob("comfyui-modal")
    assert str(script) in (tmp_path / ".bashrc").read_text()
    asked = (
        f"source {script}; COMP_WORDS=(comfyui-modal jobs dow); COMP_CWORD=2; _comfyui_modal; echo $COMPREPLY;"
        "COMP_WORDS=(comfyui-modal run --det); _comfyui_modal; echo $COMPREPLY"
    )
    shell = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)  # noqa: S607  any bash
    assert shell.stdout.split() == ["download", "--detach"]


def test_a_refusal_for_now_says_when_to_try_again(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal that has a `Retry-After` is printed with its seconds, rounded up."""
    assert explain(ApiProblem(429, {"detail": "too many jobs", "hint": "wait"}, 6.2)) == REFUSED
    assert capsys.readouterr().err.splitlines() == ["refused: too many jobs", "  → wait", "  → try again in 7 s"]


def test_the_traceback_of_an_unexpected_error_goes_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected error is named with a file, which has its traceback."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert explain_unexpected(KeyError("a")) == FAILED
    problem, advice = capsys.readouterr().err.splitlines()
    assert problem == "unexpected error: KeyError: 'a'"
    (file,) = tmp_path.iterdir()
    assert str(file) in advice
    assert file.read_text().endswith("KeyError: 'a'\n")


def test_an_unexpected_error_is_no_message() -> None:
    """An unexpected error is not explained as one that a user can cause."""
    assert explain(KeyError("a")) is None


def test_help_imports_no_command() -> None:
    """`--help` imports no module of a command, because the table of commands holds the help texts."""
    script = (
        "import sys; from infra.cli.root import main; main(['--help']);"
        "print(*(name for name in sys.modules if name.startswith(('infra.', 'storage', 'httpx', 'pydantic', 'modal'))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "infra.cli infra.cli.output infra.cli.root"
