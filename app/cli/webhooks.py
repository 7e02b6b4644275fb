"""`comfyui-modal webhooks`."""

import sys

from app.cli.exit_codes import FAILED, REFUSED
from app.cli.output import Terminal, print_json
from app.client import Client, Json
from storage.access.key_store import check_tenant
from storage.webhooks.signing import tenant_secret


def print_secrets(deployment: str, tenant: str) -> int:
    """Print the tenant's secrets. `deployment` has the deployment's secrets, separated by spaces."""
    try:
        secrets = [tenant_secret(secret, check_tenant(tenant)) for secret in deployment.split()]
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    sys.stdout.write("".join(f"{secret}\n" for secret in secrets))
    return 0


def test_receiver(api: tuple[str, str], url: str, *, as_json: bool) -> int:
    with Client(*api) as client:
        delivery = client.test_webhook(url)
    _print([delivery], as_json=as_json)
    return 0 if delivery["status"] == "delivered" else FAILED


def list_deliveries(api: tuple[str, str], job_id: str, *, as_json: bool) -> int:
    with Client(*api) as client:
        found = client.deliveries(job_id)
    _print(found, as_json=as_json)
    return 0


def redeliver(api: tuple[str, str], job_id: str, event_id: str) -> int:
    with Client(*api) as client:
        _print([client.redeliver(job_id, event_id)], as_json=False)
    return 0


def _print(deliveries: list[Json], *, as_json: bool) -> None:
    if as_json:
        print_json(deliveries)
        return
    console = Terminal()
    for delivery in deliveries:
        reason = f": {delivery['reason']}" if delivery["reason"] else ""
        line = f"{delivery['status']:10}{delivery['type']}  {delivery['event_id']}{reason}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        for attempt in delivery["attempts"]:
            said = attempt["status"] or attempt["error"]
            line = f"  {attempt['at'][:19]}  {said}  {attempt['duration_ms']} ms"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if delivery["next_at"]:
            console.print(f"  next {delivery['next_at'][:19]}", highlight=False, markup=False)
