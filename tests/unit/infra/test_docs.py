"""The docs name every command, error code, module and event, and no others."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from cyclopts import App
from pydantic import BaseModel

from app.api.events import TYPES
from app.api.job_view import JobView
from app.config import ApiConfig
from app.openapi import OPERATIONS
from app.operations import Operation
from comfyui_modal_client import verify_webhook
from infra.cli.root import cli
from storage import keys
from storage.bucket.setup import run_policy
from storage.jobs.record import QUEUE_TIMEOUT, WORKER_LOST
from storage.webhooks.signing import Signer
from tests.interop.requests import signed_events
from workers import errors
from workers.errors import Repeat
from workers.lite.nodes import node_classes
from workers.webhooks.policy import SCHEDULE

DOCS = Path(__file__).parents[3] / "docs"
ROOMS = ("workflows", "storage", "app", "workers", "infra")


def commands(app: App, prefix: str) -> set[str]:
    found: set[str] = set()
    for name in app:
        if name.startswith("-"):
            continue
        inner = app[name]
        deeper = commands(inner, f"{prefix} {name}")
        found |= deeper or {f"{prefix} {name}"}
    return found


def test_docs_name_every_command_and_no_other() -> None:
    """docs/reference/cli.md has a row for each command."""
    documented = set(
        re.findall(r"^\| `(comfyui-modal [a-z ]+)`", (DOCS / "reference/cli.md").read_text(), re.MULTILINE)
    )
    assert documented == commands(cli, "comfyui-modal")


def test_docs_name_every_error_code_and_no_other() -> None:
    """docs/reference/problems.md has a row for each error code of a failed job with its retry policy."""
    text = (DOCS / "reference/problems.md").read_text().partition("## When a job fails")[2]
    rows = re.findall(r"^\| `([a-z_]+)` \| (yes|no) \| (yes|no) \|", text, re.MULTILINE)
    yes_no = {True: "yes", False: "no"}
    kinds = [errors.WorkerError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    policy = {k.code: (yes_no[k.repeat is Repeat.AUTOMATIC], yes_no[k.repeat is not Repeat.NEVER]) for k in kinds}
    assert {code: (repeated, retryable) for code, repeated, retryable in rows} == policy | {
        QUEUE_TIMEOUT: ("no", "yes"),
        WORKER_LOST: ("yes", "yes"),
    }


@pytest.mark.parametrize("room", ROOMS)
def test_docs_name_every_module_of_a_package_and_no_other(room: str) -> None:
    """docs/explanation/architecture.md lists each top-level module and subpackage of a package once."""
    folder = DOCS.parent / room
    modules = [path.stem for path in folder.glob("*.py") if not path.name.startswith("_")]
    packages = [f"{path.parent.name}/" for path in folder.glob("*/__init__.py")]
    section = (DOCS / "explanation/architecture.md").read_text().partition(f"\n### {room}/\n")[2].partition("\n##")[0]
    named = [
        name for row in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    ]
    assert sorted(named) == sorted([*modules, *packages])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_docs_show_a_call_and_its_answer_for_every_operation(operation: Operation) -> None:
    """docs/reference/http-api.md has a curl call for each operation and a response with the fields of its model."""
    method, path = operation.method.upper(), operation.path
    section = (
        (DOCS / "reference/http-api.md").read_text().partition(f"\n### `{method} {path}`\n")[2].partition("\n## ")[0]
    )
    section = section.partition("\n### ")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (shown,), answers = ([body for kind, body in blocks if (kind == "sh") is wanted] for wanted in (True, False))
    calls = re.findall(r"^curl (?:.*\\\n)*.*$", shown, re.MULTILINE)
    place = re.sub(r"\\{\w+\\}", r"[\\w.$-]+", re.escape(path))
    assert any(_method(call) == method and re.search(rf'\$API{place}(["? ]|$)', call) for call in calls)
    assert answers
    models = [model for _, model in operation.answers.values() if model is not None]
    assert not models or any(_has_the_fields(model, json.loads(answers[0])) for model in models)


def _method(call: str) -> str:
    named = re.search(r"-X ([A-Z]+)", call)
    return named[1] if named else "POST" if " -d " in call else "GET"


def _has_the_fields(model: type[BaseModel], answer: dict[str, Any]) -> bool:
    """Return whether the answer has exactly the fields of the model."""
    return model.model_validate(answer).model_dump(mode="json").keys() == answer.keys()


def test_links_between_the_docs_resolve() -> None:
    """Every relative link names a file that exists and a heading in it."""
    root = DOCS.parent
    for page in [*DOCS.rglob("*.md"), *root.glob("*.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            leads_to = page.parent / target if target else page
            assert leads_to.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in _anchors(leads_to), f"{page.name}: {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_docs_show_the_printed_bucket_policy() -> None:
    """docs/how-to/operations.md shows the policy that `bucket policy` prints."""
    (block,) = re.findall(r"```json\n(.*?)```", (DOCS / "how-to/operations.md").read_text(), re.DOTALL)
    assert json.loads(block) == run_policy("my-bucket", "")


def test_docs_name_every_event_and_no_other() -> None:
    """docs/how-to/webhooks.md has a row for each event type and every wait of the retry schedule."""
    text = (DOCS / "how-to/webhooks.md").read_text()
    assert set(re.findall(r"^\| `(comfyui\.[a-z.]+\.v1)`", text, re.MULTILINE)) == set(TYPES)
    (waits,) = re.findall(r"^> (.+)$", text, re.MULTILINE)
    units = {"s": "seconds", "min": "minutes", "h": "hours"}
    spans = (wait.split() for wait in waits.split(", "))
    assert tuple(timedelta(**{units[unit]: int(number)}) for number, unit in spans) == SCHEDULE


def test_the_signature_in_the_docs_is_correct() -> None:
    """The test vector of docs/how-to/webhooks.md has the signature that the product's signer makes."""
    text = (DOCS / "how-to/webhooks.md").read_text().partition("## Verify it yourself")[2]
    row = dict(re.findall(r"^\| (?:`)?([a-z-]+)(?:`)? \| `(.+)` \|$", text, re.MULTILINE))
    headers = Signer((row["secret"],)).headers(row["webhook-id"], int(row["webhook-timestamp"]), row["body"].encode())
    assert headers["webhook-signature"] == row["webhook-signature"]


def test_the_webhook_request_in_the_docs_matches_the_product() -> None:
    """The sample request has the renderer's fields in their order, and its signature verifies with the secret of the
    page."""
    text = (DOCS / "how-to/webhooks.md").read_text()
    ((head, block),) = re.findall(r"```\nPOST .*?\n(.*?)\n\n(\{.*?)```", text, re.DOTALL)
    secret = re.findall(r"`(whsec_[^`]{20,})`", text)[0]
    headers, shown = dict(line.split(": ", 1) for line in head.splitlines()), json.loads(block)
    verify_webhook(secret, headers, json.dumps(shown).encode(), now=int(headers["webhook-timestamp"]))
    (event,) = (e for e in signed_events(datetime.now(UTC), (secret,)) if e.type == shown["type"])
    ours = json.loads(event.body)
    assert (list(headers), list(shown)) == (list(event.headers), list(ours))
    job = JobView.model_validate(shown["data"])
    assert job.model_dump(mode="json") == shown["data"]
    assert list(shown["data"]) == list(ours["data"])
    assert list(shown["data"]["outputs"][0]) == list(ours["data"]["outputs"][0])


def test_the_job_in_the_docs_has_a_valid_expiry_and_output_url() -> None:
    """The sample job expires one retention period after its end, and its output URL follows the key layout."""
    text = (DOCS / "how-to/webhooks.md").read_text()
    (block,) = re.findall(r"```\nPOST .*?\n\n(\{.*?)```", text, re.DOTALL)
    job = JobView.model_validate(json.loads(block)["data"])
    assert job.completed_at is not None
    assert job.expires_at == job.completed_at + timedelta(seconds=ApiConfig(api_key=None).retain_s)
    (output,) = job.outputs
    assert urlsplit(output.url).path == "/" + keys.output(
        keys.DEFAULT_TENANT, job.job_id, job.attempt, 0, output.filename
    )


@pytest.mark.parametrize(
    "words",
    [
        *(
            "modal deploy FILE",
            "Authorization: Bearer",
            "answered 202",
            "`estimated_time`",
            "`image_base64`",
            "`image_url`",
        ),
        *("at most 50 MB each", "`webhook_url`", "`priority`", "`progress_details`", "`url` and `url_expires_at`"),
        *("Cancelled by user", "the GPU stops within seconds", "GET /v1/jobs?status=&limit=", "GET /health", "L40S"),
        *("comfyui-modal scale --max 8", "SageAttention", "Wan 2.1 and 2.2", "`infra/nodes.toml`", "`/cache`"),
        *("`workflows/wan22Smoothloop_fixed.json`", "`107` and `16.positive_prompt`", "comfyui-modal run wan22"),
        *("comfyui-modal batch wan22", "`outputs/`", "without its padding", "survives restarts", "volume locks"),
        *("400 on upload", "model not found", "stuck in `queued`", "webhook time-outs", "COMFYUI_MODAL_API_LABEL"),
    ],
)
def test_the_upgrade_page_covers_each_feature_of_the_first_version(words: str) -> None:
    """docs/how-to/upgrading.md mentions each feature of the first version that its users rely on."""
    assert words in (DOCS / "how-to/upgrading.md").read_text()


def test_docs_name_every_node_of_the_lite_engine_and_no_other() -> None:
    """docs/reference/lite.md has a row for each node with its inputs and outputs in the order of the code."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| .+ \|$", (DOCS / "reference/lite.md").read_text(), re.MULTILINE)
    shown = {name: (re.findall(r"`(\w+)`", inputs), outputs) for name, inputs, outputs in rows}
    assert shown == {
        name: ([field for field in about.inputs() if "." not in field], ", ".join(about.outputs) or "—")
        for name, about in node_classes(faults_too=True).items()
    }


def test_the_node_in_the_docs_can_be_added() -> None:
    """The sample node of docs/reference/lite.md loads, runs and declares its inputs."""
    (module,) = re.findall(r"```python\n(.*?)```", (DOCS / "reference/lite.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(module, names)  # noqa: S102  the docs are part of the repository
    (node,) = names["NODES"]
    (made,) = node.execute(None, image=np.full((1, 2, 2, 3), 0.4), levels=2).values
    assert made.max() == 0.0
    assert node.object_info()["input"]["required"].keys() == {"image", "levels"}
