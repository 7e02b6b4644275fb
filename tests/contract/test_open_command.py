"""`comfyui-modal open` asks the API for a link, and opens no other site."""

import json

import pytest

from infra.cli.arguments import Target
from infra.cli.open import open_pages
from infra.cli.output import Refused
from tests.support.scripted_http import Answer, scripted_http


def test_the_link_is_one_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    """The link is the API's own address with the token of the answer."""
    with scripted_http(Answer(201, b'{"path": "/ui/open?token=a.1.b-_"}')) as server:
        open_pages(print_only=True, target=Target(api_url=server.url, api_key="key"))
    assert capsys.readouterr().out.strip() == f"{server.url}/ui/open?token=a.1.b-_"
    assert server.received[0].headers["authorization"] == "Bearer key"


@pytest.mark.parametrize("path", ["@evil.example/ui/open?token=a", "/ui/open?token=a&next=//evil", "", None, 1])
def test_an_answer_with_another_address_is_refused(path: object) -> None:
    """A server whose answer leads elsewhere is refused, and no browser is opened."""
    with scripted_http(Answer(201, json.dumps({"path": path}).encode())) as server, pytest.raises(Refused):
        open_pages(print_only=True, target=Target(api_url=server.url, api_key="key"))
