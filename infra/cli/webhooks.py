"""`comfyui-modal webhooks`, and `listen`: a webhook receiver for development that verifies and prints each event."""

import json
import sys
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.markup import escape

from comfyui_modal_client import WebhookRejected, verify_webhook
from infra.cli.arguments import DEFAULT_DATA, AsJson, Port, SecretFolder, SigningSecret, Target, webhook_secret_of
from infra.cli.output import FAILED, Json, Refused, Terminal, print_json
from storage.access.key_store import check_tenant
from storage.webhooks.signing import secret_bytes, tenant_secret

webhooks = App(name="webhooks")

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_LENGTH_DIGITS = 10
"""Digits of a content-length: Python parses at most 4,300, and takes long for those."""
SENDER_TIMEOUT_S = 15.0
"""A sender that is silent for so long is left: events are received one after another."""


@webhooks.command(name="test")
def try_receiver(url: str, *, as_json: AsJson = False, target: Target = Target()) -> int:
    """Send a signed test event to a receiver, and say what came of it."""
    with target.client() as client:
        delivery = client.test_webhook(url)
    _print([delivery], as_json=as_json)
    return 0 if delivery["status"] == "delivered" else FAILED


@webhooks.command
def deliveries(job_id: str, *, as_json: AsJson = False, target: Target = Target()) -> None:
    """Show how the delivery of a job's events went, attempt by attempt."""
    with target.client() as client:
        _print(client.deliveries(job_id), as_json=as_json)


@webhooks.command
def redeliver(job_id: str, event_id: str, *, target: Target = Target()) -> None:
    """Send one of a job's events once more, with the same id."""
    with target.client() as client:
        _print([client.redeliver(job_id, event_id)], as_json=False)


@webhooks.command(name="secret")
def print_secrets(
    *,
    tenant: Annotated[str, Parameter(help="whose events it signs")],
    secret: SigningSecret = None,
    data: SecretFolder = DEFAULT_DATA,
) -> None:
    """Print the secret that signs a tenant's events, the newest first while secrets rotate."""
    deployment = (secret or webhook_secret_of(data)).split()
    try:
        secrets = [tenant_secret(one, check_tenant(tenant)) for one in deployment]
    except ValueError as error:
        raise Refused(str(error)) from None
    sys.stdout.write("".join(f"{one}\n" for one in secrets))


def listen(
    *,
    port: Port = 9000,
    secret: SigningSecret = None,
    answer: Annotated[
        int, Parameter(help="the status that each event is answered", validator=Number(gte=200, lte=599))
    ] = 204,
    count: Annotated[int | None, Parameter(help="end after so many events", validator=Number(gte=1))] = None,
    as_json: AsJson = False,
    data: SecretFolder = DEFAULT_DATA,
) -> int:
    secret = secret or webhook_secret_of(data)
    try:
        for one in secret.split():  # several while they rotate
            secret_bytes(one)
    except ValueError as error:
        raise Refused(f"the secret cannot be used: {error}") from None
    return Listening(port, secret, answer, count, as_json).serve()


def _print(deliveries: list[Json], *, as_json: bool) -> None:
    if as_json:
        print_json(deliveries)
        return
    console = Terminal()
    for delivery in deliveries:
        reason = f": {delivery['reason']}" if delivery["reason"] else ""
        line = f"{delivery['status']:10}{delivery['type']}  {delivery['event_id']}{reason}"
        console.print_line(line)
        for attempt in delivery["attempts"]:
            result = attempt["status"] or attempt["error"]
            line = f"  {attempt['at'][:19]}  {result}  {attempt['duration_ms']} ms"
            console.print_line(line)
        if delivery["next_at"]:
            console.print_line(f"  next {delivery['next_at'][:19]}")


@dataclass(slots=True)
class Listening:
    """A webhook receiver. It responds to each event with `status`, and stops after `count` events if that is set.

    Without a `secret` it does not check signatures.
    """

    port: int
    secret: str | None
    status: int = 204
    count: int | None = None
    as_json: bool = False
    seen: int = 0
    forged: int = 0
    console: Terminal = field(default_factory=Terminal)

    def serve(self) -> int:
        """Serve until Ctrl-C or `count` events. Returns the exit code, 1 if an event had an invalid signature."""
        with self._server() as server:
            sys.stdout.write(f"listening: http://127.0.0.1:{server.server_port}/\n")
            sys.stdout.flush()
            try:
                while self.count is None or self.seen < self.count:
                    server.handle_request()
            except KeyboardInterrupt:
                return 0
            except _OutputClosed:
                raise BrokenPipeError from None
        return FAILED if self.forged else 0

    def _server(self) -> HTTPServer:
        """Listen. Raises `Refused` for a port that is in use or not allowed."""
        try:
            return _Server(("127.0.0.1", self.port), self._handler())
        except OSError as error:
            raise Refused(
                f"port {self.port} cannot be used ({error.strerror})\n"
                "  → choose another: --port 0 takes any that is free"
            ) from None

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """Verify and print an event. Returns the status of the response, 401 for an invalid signature."""
        self.seen += 1
        try:
            return self._receive(headers, body)
        except BrokenPipeError as error:
            raise _OutputClosed from error

    def _receive(self, headers: dict[str, str], body: bytes) -> int:
        try:
            # Several secrets, separated by spaces, are valid while they rotate.
            event = json.loads(body) if self.secret is None else verify_webhook(self.secret.split(), headers, body)
        except WebhookRejected as error:
            self.forged += 1
            self.console.print_line(f"refused: {error}", style="red")
            return 401
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self.console.print_line("refused: the body is not a JSON object", style="red")
            return 400
        self._show(event)
        return self.status

    def _show(self, event: dict[str, Any]) -> None:
        if self.as_json:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()
            return
        believed = "verified" if self.secret is not None else "not verified"
        kind, event_id = escape(str(event.get("type"))), escape(str(event.get("id")))
        # Others' texts in this line are escaped, since its markup is obeyed.
        self.console.print(f"[green]{believed}[/] [bold]{kind}[/] {event_id}", highlight=False, markup=True)
        data = event.get("data")
        if isinstance(data, dict):
            self.console.print_line(_short(data))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        listening = self

        class Handler(BaseHTTPRequestHandler):
            timeout = SENDER_TIMEOUT_S

            def do_POST(self) -> None:
                given = self.headers.get("content-length") or "0"
                length = int(given) if given.isdecimal() and len(given) <= MAX_LENGTH_DIGITS else -1
                if not 0 <= length <= MAX_BODY_BYTES:
                    self.send_error(413)
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(listening.receive(headers, self.rfile.read(length)))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Log nothing: `receive` prints each event."""

        return Handler


class _OutputClosed(Exception):
    """The reader of this command's output has ended."""


class _Server(HTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Ignore a sender that has gone. Any other error ends the command."""
        if not isinstance(sys.exception(), OSError):
            raise  # noqa: PLE0704  the server calls it while it handles the error


def _short(data: dict[str, Any]) -> str:
    """Return the most important fields, and each output's name and URL."""
    shown = {name: data[name] for name in ("job_id", "batch_id", "status", "progress", "error") if data.get(name)}
    lines = [f"  {name} {value}" for name, value in shown.items()]
    # Without a secret to verify it, an event may have any form.
    listed = data.get("outputs")
    outputs = [output for output in listed if isinstance(output, dict)] if isinstance(listed, list) else []
    lines += [f"  output {output.get('filename')} {output.get('url')}" for output in outputs]
    return "\n".join(lines) or f"  {json.dumps(data)[:500]}"
