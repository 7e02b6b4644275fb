"""A damaged data folder of `up`: the message names the file and says what to do."""

import logging
from pathlib import Path

import pytest

from infra.cli.explain import explain
from infra.cli.output import REFUSED
from infra.local.connection import BadCredentials, Credentials
from infra.local.s3_server import LocalS3Server

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"access_key":',
        f'{{"api_key": "k", "access_key": 1, "secret_key": "{SECRET}"}}',
        f'{{"api_key": "", "access_key": "a", "secret_key": "{SECRET}"}}',
        f'{{"api_key": "k", "access_key": "a", "secret_key": ["{SECRET}"]}}',
        f'{{"api_key": "k", "secret_key": "{SECRET}"',
        "no JSON",
    ],
)
def test_damaged_credentials_are_named(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names credentials.json and what to do, and repeats no secret; the file is left as it was."""
    path = tmp_path / "credentials.json"
    path.write_text(content)
    with pytest.raises(BadCredentials) as raised:
        Credentials.of(tmp_path)
    assert explain(raised.value) == REFUSED
    words = "".join(capsys.readouterr().err.split())
    assert str(path) in words
    assert "isdamaged" in words
    assert "removeit" in words
    assert SECRET not in words
    assert path.read_text() == content


@pytest.mark.parametrize("content", [b"", b"x", b"-1", b"0", b"65536", b"99999", b"9" * 5000, b"\xff"])
def test_a_damaged_port_file_is_replaced(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A kept port that is no port is named in a warning, and another one is chosen."""
    path = tmp_path / "s3.port"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        server = LocalS3Server(data_dir=tmp_path, bucket="b", access_key="a", secret_key="s")
    assert all(0 < port <= 65_535 for port in server.ports)
    assert str(path) in caplog.text


def test_a_kept_port_is_used_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A valid port of the last start is kept without a warning, as is the lack of one at the first start."""
    first = LocalS3Server(data_dir=tmp_path, bucket="b", access_key="a", secret_key="s")
    port = first.endpoint_url.rpartition(":")[2]
    (tmp_path / "s3.port").write_text(f"{port}\n")
    again = LocalS3Server(data_dir=tmp_path, bucket="b", access_key="a", secret_key="s")
    assert again.endpoint_url == first.endpoint_url
    assert caplog.text == ""
