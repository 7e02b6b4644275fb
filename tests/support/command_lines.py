"""Every command of the command line with arguments that it takes, enumerated so that a new command is included."""

from collections.abc import Iterator

from cyclopts import App

from infra.cli.root import cli

SERVERS = frozenset({"up", "api", "worker", "deliver", "reap", "listen"})
"""Commands that run until they are stopped."""


def every_command(app: App = cli, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield each command with a value for each argument that it needs."""
    for name in app:
        if name.startswith("-"):
            continue
        inner = app[name]
        if any(not word.startswith("-") for word in inner):
            yield from every_command(inner, (*prefix, name))
        else:
            yield (*prefix, name, *_needed(inner))


def _needed(command: App) -> Iterator[str]:
    """Yield a value for each required argument. A variable number of arguments gets one."""
    for argument in command.assemble_argument_collection(parse_docstring=False):
        kind = argument.field_info.kind
        if kind is argument.field_info.VAR_POSITIONAL or (
            argument.required and kind is not argument.field_info.KEYWORD_ONLY
        ):
            yield "example"
        elif argument.required:
            yield from (argument.name, "example")
