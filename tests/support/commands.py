"""Runs commands of the project in processes that start with everything imported: see `command_server`."""

import atexit
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from typing import IO

import comfyui_modal
from tests.support.environment import clean_environment


def run_command(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 120
) -> "subprocess.CompletedProcess[str]":
    """What `python -m module argument…` says and how it ends. `environment` is all that it gets."""
    wanted = {
        "module": module,
        "arguments": arguments,
        "environment": dict(clean_environment() if environment is None else environment),
    }
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        server = _server()
        server.settimeout(timeout)
        socket.send_fds(server, [json.dumps(wanted).encode()], [output.fileno(), errors.fileno()])
        answer = server.recv(100)
        assert answer, "the command server has ended"
        return subprocess.CompletedProcess([module, *arguments], json.loads(answer), _text(output), _text(errors))


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


@cache
def _server() -> socket.socket:
    """One a test process, started when a command is first run."""
    ours, theirs = socket.socketpair()
    command = comfyui_modal.command("tests.support.command_server", str(theirs.fileno()))
    environment = clean_environment() | {"MODAL_CONFIG_PATH": os.devnull}  # modal reads it when it is imported
    process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours
