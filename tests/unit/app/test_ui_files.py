"""The vendored script of the pages."""

import hashlib
from pathlib import Path

import app.ui

STATIC = Path(app.ui.__file__).parent / "static"


def test_the_vendored_script_is_the_published_one() -> None:
    """Each vendored file has the SHA-256 that is recorded next to it, and its licence is there."""
    recorded = dict(line.split()[::-1] for line in (STATIC / "SHA256SUMS").read_text().splitlines())
    assert set(recorded) == {"htmx.min.js"}
    for name, digest in recorded.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
    assert "Zero-Clause BSD" in (STATIC / "htmx.LICENSE").read_text()


def test_no_template_has_a_script_or_a_style_of_its_own() -> None:
    """No template has an inline script, an inline style, an event attribute or an unescaped value."""
    templates = sorted((STATIC.parent / "templates").rglob("*.html"))
    assert len(templates) > 15
    for path in templates:
        text = path.read_text()
        for forbidden in (
            "<style",
            " style=",
            " onclick=",
            " onload=",
            "| safe",
            "|safe",
            "autoescape",
            "javascript:",
            "http://",
        ):
            assert forbidden not in text, f"{path.name}: {forbidden}"
        assert text.count("<script") == text.count('<script src="/ui/static/')
