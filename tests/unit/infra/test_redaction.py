"""Redaction of secrets in log lines."""

import json
import logging

import pytest

from infra.logs import LONGEST_EXCEPTION, LONGEST_TEXT, JsonFormatter
from infra.secrecy import HIDDEN, Redactor

SECRET = "s3cr3t-of-the-bucket+/="
URL = "https://s3.example/b/k?X-Amz-Credential=AKIA%2F20261124&X-Amz-Date=20261124T000000Z&X-Amz-Signature=abcdef0123"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"the key is {SECRET}.", f"the key is {HIDDEN}."),
        ("Authorization: Bearer abc.def-ghi", f"Authorization: Bearer {HIDDEN}"),
        ("ck_live_a1b2c3d4_" + "x" * 43 + "_0badcafe", f"ck_live_a1b2c3d4_{HIDDEN}"),
        ("ck_local_" + "x" * 32, f"ck_local_{HIDDEN}"),
        ("kid a1b2c3d4", "kid a1b2c3d4"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", f"whsec_{HIDDEN}"),
        ("hf_" + "a" * 34, f"hf_{HIDDEN}"),
        (URL, f"https://s3.example/b/k?X-Amz-Credential={HIDDEN}&X-Amz-Date=20261124T000000Z&X-Amz-Signature={HIDDEN}"),
        ("nothing of the kind, and short", "nothing of the kind, and short"),
    ],
)
def test_secrets_are_redacted(text: str, left: str) -> None:
    """Secrets are redacted, and the parts that identify them stay readable."""
    assert Redactor((SECRET, "short"))(text) == left


def test_every_part_of_a_line_is_redacted() -> None:
    """Secrets are redacted in the message, the fields and the traceback."""
    info = (OSError, OSError(f"cannot open {URL}"), None)
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed with %s", (SECRET,), info)
    record.__dict__["url"] = URL
    line = JsonFormatter("p", Redactor((SECRET,))).format(record)
    assert "abcdef0123" not in line
    assert SECRET not in line
    assert json.loads(line)["message"] == f"failed with {HIDDEN}"


@pytest.mark.parametrize("secret", ['quo"ted-secret', "back\\slashed-secret", "ünicode-secret", "line\nbroken-secret"])
def test_a_secret_is_redacted_in_its_json_form(secret: str) -> None:
    """A secret with characters that JSON escapes is redacted in either escaped form."""
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed with %s", (secret,), None)
    line = JsonFormatter("p", Redactor((secret,))).format(record)
    assert json.loads(line)["message"] == f"failed with {HIDDEN}"
    for plain in (True, False):
        assert "secret" not in Redactor((secret,))(json.dumps({"a": secret}, ensure_ascii=plain))


@pytest.mark.parametrize("before", [0, LONGEST_TEXT - 5, LONGEST_TEXT + 5])
def test_a_long_text_is_cut(before: int) -> None:
    """Message, fields and traceback are truncated, and a secret at the cut is redacted completely."""
    text = "a" * before + SECRET + "b" * 1_000_000
    info = (OSError, OSError("c" * 1_000_000 + SECRET), None)
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s", (text,), info)
    record.__dict__["field"] = text
    line = JsonFormatter("p", Redactor((SECRET,))).format(record)
    written = json.loads(line)
    assert len(written["message"]) == len(written["field"]) == LONGEST_TEXT + 1
    assert len(written["exception"]) <= LONGEST_EXCEPTION + 1
    assert written["exception"].endswith(f"c{HIDDEN}")
    assert SECRET[:4] not in line
