"""`comfyui-modal open` asks the API for a link, and opens no other site."""

import json
import os
import stat
from pathlib import Path

import pytest

from infra.cli.arguments import Target
from infra.cli.open import open_pages
from infra.cli.output import Refused
from tests.support.commands import run_command
from tests.support.environment import clean_environment
from tests.support.scripted_http import Answer, scripted_http


def test_the_link_is_one_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    """The link is the API's own address with the token of the answer."""
    with scripted_http(Answer(201, b'{"path": "/ui/open?token=a.1.b-_"}')) as server:
        open_pages(print_only=True, target=Target(api_url=server.url, api_key="key"))
    assert capsys.readouterr().out.strip() == f"{server.url}/ui/open?token=a.1.b-_"
    assert server.received[0].headers["authorization"] == "Bearer key"


def test_the_browser_gets_a_file_that_its_user_alone_can_read(tmp_path: Path) -> None:
    """The link is in a private file and in no argument of the browser; the files of expired links are removed."""
    (browser := tmp_path / "browser").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/opened\n')
    browser.chmod(0o700)
    environment = clean_environment() | {"BROWSER": str(browser), "TMPDIR": str(tmp_path)}
    with scripted_http(Answer(201, b'{"path": "/ui/open?token=a.1.b-_"}')) as server:
        for _ in range(2):
            command = ("open", "--api-url", server.url, "--api-key", "key")
            done = run_command("infra.cli", *command, environment=environment, folder=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "token" not in done.stdout + done.stderr
            newest = Path((tmp_path / "opened").read_text().splitlines()[-1].removeprefix("file://"))
            assert f'url={server.url}/ui/open?token=a.1.b-_"' in newest.read_text()
            assert (stat.S_IMODE(newest.stat().st_mode), stat.S_IMODE(newest.parent.stat().st_mode)) == (0o600, 0o700)
            os.utime(newest.parent, (0, 0))
    opened = (tmp_path / "opened").read_text()
    assert "token" not in opened
    assert [Path(line.removeprefix("file://")).exists() for line in opened.splitlines()] == [False, True]


def test_without_a_browser_the_link_is_printed(tmp_path: Path) -> None:
    """Where no browser can be opened the link is printed, and no file stays."""
    environment = clean_environment() | {"BROWSER": "/bin/false", "TMPDIR": str(tmp_path), "PATH": "/nonexistent"}
    with scripted_http(Answer(201, b'{"path": "/ui/open?token=a.1.b-_"}')) as server:
        command = ("open", "--api-url", server.url, "--api-key", "key")
        done = run_command("infra.cli", *command, environment=environment, folder=tmp_path)
    assert done.stdout.strip() == f"{server.url}/ui/open?token=a.1.b-_"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["@evil.example/ui/open?token=a", "/ui/open?token=a&next=//evil", "", None, 1])
def test_an_answer_with_another_address_is_refused(path: object) -> None:
    """A server whose answer leads elsewhere is refused, and no browser is opened."""
    with scripted_http(Answer(201, json.dumps({"path": path}).encode())) as server, pytest.raises(Refused):
        open_pages(print_only=True, target=Target(api_url=server.url, api_key="key"))
