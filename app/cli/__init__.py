"""The client commands: `run`, `jobs`, `logs`, `workflows`, `webhooks`, `listen`, `system` and `openapi`.

`infra.cli` adds the commands that run, deploy and check the service.
"""

from app.cli.root import cli

__all__ = ["cli"]
