"""Every command under conditions in which it cannot work: each ends with a message, and none with a traceback."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import comfyui_modal
from infra.cli.output import CLOSED_PIPE, FAILED, INTERRUPTED, REFUSED, UNREACHABLE
from tests.support.command_lines import SERVERS, every_command
from tests.support.commands import PRELOADED, ROOT, run_command
from tests.support.environment import clean_environment
from tests.support.forked import fork

COMMANDS = sorted(every_command())
LOOPBACK = {"MODAL_SERVER_URL": "http://127.0.0.1:9", "MODAL_CONFIG_PATH": os.devnull}
TOKEN = {"MODAL_TOKEN_ID": "ak-test", "MODAL_TOKEN_SECRET": "as-test"}
DEAD_API = {"COMFYUI_MODAL_API_URL": "http://127.0.0.1:9", "COMFYUI_MODAL_API_KEY": "key"}
BUCKET_WITHOUT_KEYS = {"COMFYUI_MODAL_BUCKET": "b", "COMFYUI_MODAL_S3_ENDPOINT": "http://127.0.0.1:9"}


def ended(folder: Path, *words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in an empty folder, and check how it ended."""
    environment = clean_environment() | LOOPBACK | {"TMPDIR": str(folder)} | settings
    done = run_command("infra.cli", *words, environment=environment, folder=folder)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed, printed
    assert "unexpected error" not in printed, printed
    assert done.returncode in (0, FAILED, REFUSED, UNREACHABLE), printed
    assert done.returncode == 0 or printed.strip(), f"{words} ended with {done.returncode} without a word"
    return done


def test_every_command_without_configuration_ends_with_a_message(tmp_path: Path) -> None:
    """Without an API, a bucket, a token and files, a command that cannot work says so."""
    at_once(lambda words: ended(tmp_path, *words))


def test_every_command_whose_services_are_dead_ends_with_a_message(tmp_path: Path) -> None:
    """With an API and a bucket at a port where nothing listens, a command says what does not answer."""
    (tmp_path / "example").write_text("[{}]")
    at_once(lambda words: ended(tmp_path, *words, **DEAD_API, **BUCKET_WITHOUT_KEYS))


def test_a_closed_pipe_ends_every_command(tmp_path: Path) -> None:
    """A command whose output nobody reads ends with the exit code that a shell gives to SIGPIPE."""
    at_once(lambda words: ended_by_reader(tmp_path, *words))
    for words in (("--help",), ("run", "--nothing")):
        ended_by_reader(tmp_path, *words)


def at_once(check: Callable[[tuple[str, ...]], object]) -> None:
    """Check all commands but servers, several at a time: most of them wait for a connection."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, (words for words in COMMANDS if words[0] not in SERVERS)))


def ended_by_reader(folder: Path, *words: str) -> None:
    """Run a command whose output and errors go to a closed pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        process = fork(
            PRELOADED,
            ("comfyui_modal", "infra.cli", *words),
            environment=clean_environment() | LOOPBACK,
            output=closed,
            errors=closed,
            folder=folder,
        )
        try:
            assert process.wait(60) == CLOSED_PIPE, words
        finally:
            process.kill()


def test_a_reader_that_ends_early_gets_nothing_else() -> None:
    """`openapi | head -1` prints one line, nothing on standard error, and ends with 141."""
    command = shlex.join([*comfyui_modal.command("infra.cli"), "openapi"])
    script = f"set -o pipefail; {command} | head -1"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("{\n", "", CLOSED_PIPE)


def test_output_into_a_pipe_is_not_wrapped(tmp_path: Path) -> None:
    """Help, an error and a table are printed with one line for each entry, however long."""
    lines = ended(tmp_path, "run", "--help").stdout.splitlines()
    assert any(len(line) > 100 and line.lstrip().startswith("WORKFLOW") for line in lines), lines
    (problem, advice) = ended(tmp_path, "run", "x" * 200, "--nothing").stderr.splitlines()
    assert (problem, advice) == ("Unknown option: --nothing.", "  → see `comfyui-modal run --help`")


def test_another_web_server_is_no_api(page: str, tmp_path: Path) -> None:
    """A command whose API URL is that of another web server says so."""
    (tmp_path / "example").write_text("{}")
    for words in (("jobs", "list"), ("run", "example"), ("uploads", "put", "example")):
        done = ended(tmp_path, *words, **DEAD_API | {"COMFYUI_MODAL_API_URL": page})
        assert (done.returncode, page in done.stderr) == (UNREACHABLE, True), done.stderr


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """A web server that answers every request with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-length", "5")
            self.end_headers()
            self.wfile.write(b"<html")

        do_POST = do_DELETE = do_GET  # noqa: N815  the names that http.server looks up

        def log_message(self, *_: object) -> None:
            """Suppress the request log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """Servers name a port that is in use, and one that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words in (("listen", "--secret", "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"), ("up", "--data", "data")):
            done = ended(tmp_path, *words, "--port", port)
            assert (done.returncode, port in done.stderr, "--port" in done.stderr) == (REFUSED, True, True), done.stderr
            assert ended(tmp_path, *words, "--port", "99999").returncode == REFUSED


def test_a_folder_for_outputs_is_checked_before_the_job_is_submitted(tmp_path: Path) -> None:
    """A bad --out is refused by name although the API was not asked yet."""
    (tmp_path / "file").write_text("")
    (tmp_path / "graph.json").write_text("{}")
    sets = tmp_path / "sets.json"
    sets.write_text("[{}]")
    for words in (
        ("run", "graph.json"),
        ("batch", "graph.json", "file"),
        ("batches", "submit", "graph.json", "sets.json"),
        ("jobs", "download", "job"),
    ):
        done = ended(tmp_path, *words, "--out", "file/outputs", **DEAD_API)
        assert (done.returncode, "file/outputs: Not a directory" in done.stderr) == (REFUSED, True), done.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "example.json is not a file"),
        (b"", "example.json is not JSON"),
        (b"[]", "example.json is not a graph"),
        (b"\xff\xfe", "example.json is not JSON"),
        (b"[" * 100_000, "example.json is not JSON"),
    ],
)
def test_a_bad_workflow_file_is_named(content: bytes | None, reason: str, tmp_path: Path) -> None:
    """A workflow file that is missing, no JSON, no object or no text is refused by name."""
    if content is not None:
        (tmp_path / "example.json").write_bytes(content)
    done = ended(tmp_path, "run", "example.json", **DEAD_API)
    assert (done.returncode, reason in done.stderr) == (REFUSED, True), done.stderr


def test_a_folder_is_no_workflow(tmp_path: Path) -> None:
    """A folder in place of a workflow's file is named as a folder."""
    (tmp_path / "example").mkdir()
    done = ended(tmp_path, "run", "example", **DEAD_API)
    assert (done.returncode, "example is a folder" in done.stderr) == (REFUSED, True), done.stderr


def test_missing_keys_of_the_bucket_are_one_finding(tmp_path: Path) -> None:
    """`doctor` without the bucket's keys fails once, and names the variables to set."""
    done = ended(tmp_path, "doctor", **BUCKET_WITHOUT_KEYS)
    assert done.returncode == FAILED
    problem, advice = done.stdout.splitlines()
    assert problem == "FAIL bucket reachable: no credentials for the bucket"
    assert "COMFYUI_MODAL_S3_ACCESS_KEY" in advice


def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    """Ctrl-C while a command waits for an answer ends it with 130 and one word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [*comfyui_modal.command("infra.cli"), "jobs", "list", "--api-url", url, "--api-key", "key"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            silent.settimeout(60)
            with silent.accept()[0]:
                process.send_signal(signal.SIGINT)
                printed = process.communicate(timeout=60)
    assert (process.returncode, printed) == (INTERRUPTED, ("", "interrupted\n"))


def test_ctrl_c_while_modules_are_imported_prints_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C before a command has begun ends it with 130."""
    (tmp_path / "interrupted.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    script = "import sys, comfyui_modal; sys.exit(comfyui_modal.run('interrupted', []))"
    environment = clean_environment() | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (INTERRUPTED, "")


def test_a_dead_network_is_named_before_the_token(tmp_path: Path) -> None:
    """`deploy` says which URL it asks and how long, and does not blame the token when nothing answers."""
    done = ended(tmp_path, "deploy", **TOKEN, COMFYUI_MODAL_MODAL_TIMEOUT_S="0.5")
    assert done.returncode == UNREACHABLE
    assert "asking Modal at http://127.0.0.1:9, for at most 0.5 s" in done.stdout
    assert "FAIL Modal token: http://127.0.0.1:9 did not answer within 0.5 s" in done.stdout
    assert "check the network" in done.stdout
    assert "modal token new" not in done.stdout


def test_a_dry_run_checks_what_needs_no_token(tmp_path: Path) -> None:
    """Without a token `deploy --dry-run` reports every local check, then asks for a token."""
    done = ended(tmp_path, "deploy", "--dry-run")
    assert done.returncode == UNREACHABLE
    before, token, after = done.stdout.partition("FAIL Modal token: Token missing")
    assert "ok   manifests: " in before
    assert "ok   image lock: " in before
    assert token
    assert "not checked without it: secret" in after


def test_a_broken_manifest_fails_a_dry_run(tmp_path: Path) -> None:
    """`deploy --dry-run` names the line, the entry and the field of a broken manifest, and needs no token for it."""
    text = (ROOT / "infra/nodes.toml").read_text()
    number = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith("commit = "))
    lines = text.splitlines()
    lines[number - 1] = 'commit = "main"'
    (tmp_path / "nodes.toml").write_text("\n".join(lines))
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "mine.toml").write_text("title = 1")
    done = ended(tmp_path, "deploy", "--dry-run", COMFYUI_MODAL_NODES="nodes.toml")
    assert done.returncode == FAILED
    assert "nodes.toml, line " in done.stdout
    assert 'commit: "main" is not a whole commit' in done.stdout
    done = ended(tmp_path, "deploy", "--dry-run", COMFYUI_MODAL_WORKFLOWS_DIR="flows")
    assert (done.returncode, "FAIL manifests: " in done.stdout, "mine" in done.stdout) == (FAILED, True, True)


def test_shipped_files_are_found_from_any_folder(tmp_path: Path) -> None:
    """The manifests of nodes and models, the image's lock and the shipped workflows do not depend on the folder."""
    done = ended(tmp_path, "deploy", "--dry-run")
    assert "FAIL manifests" not in done.stdout, done.stdout
    assert "FAIL image lock" not in done.stdout, done.stdout
    listed = ended(tmp_path, "models", "list", "--dir", "models", "--workflow", "sdxl")
    assert "sd_xl_base" in listed.stdout, listed.stdout + listed.stderr


def test_a_given_manifest_is_found_from_the_folder_of_the_command(tmp_path: Path) -> None:
    """A manifest of models that is named by a relative path lies in the folder in which the command is called."""
    (tmp_path / "models.toml").write_text(
        '[[model]]\nfolder = "loras"\nfile = "mine.safetensors"\nurl = "https://a.example/m"\n'
    )
    for named in ({"COMFYUI_MODAL_MODELS": "models.toml"}, {}):
        words = () if named else ("--manifest", "models.toml")
        listed = ended(tmp_path, "models", "list", "--dir", "models", *words, **named)
        assert "mine.safetensors" in listed.stdout, listed.stdout + listed.stderr
