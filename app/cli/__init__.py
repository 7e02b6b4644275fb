"""The command line's client side: `run`, `jobs`, `openapi`. `infra.cli` adds what runs and examines a deployment."""

from app.cli.root import cli

__all__ = ["cli"]
