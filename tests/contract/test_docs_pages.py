"""The pages for people: `/` leads to the reference, and the reference to the guides."""

import re
from urllib.parse import urljoin, urlsplit

import pytest

from app.api.guides import guides
from app.config import ApiConfig
from app.openapi import GROUPS, OPERATIONS, document
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import KEY, Api, running_api

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/?next=https://evil.example", "/?docs=//evil.example"])
async def test_the_root_leads_to_the_reference(memory_api: Api, method: str, path: str) -> None:
    """`/` redirects to /docs of the same host, whatever its query and its Host header are."""
    response = await memory_api.client.request(method, path, headers={"host": "evil.example", "accept": "*/*"})
    assert (response.status_code, response.headers["location"]) == (302, "docs")
    assert response.content == b""
    page = await memory_api.client.get("/", follow_redirects=True)
    assert (page.status_code, page.url.path) == (200, "/docs")


async def test_a_client_that_wants_json_gets_the_links(memory_api: Api) -> None:
    """A client that accepts JSON and not HTML gets relative links, each of which is answered."""
    response = await memory_api.client.get("/", headers={"accept": "application/json"})
    links = response.json()
    assert (links.pop("name"), response.headers["vary"]) == ("ComfyUI Modal API", "accept")
    links.pop("version")
    for link in links.values():
        assert (await memory_api.client.get(f"/{link}")).status_code == 200, link
    browser = await memory_api.client.get("/", headers={"accept": "text/html,application/json;q=0.9"})
    assert browser.status_code == 302


async def test_without_docs_the_root_leads_nowhere(clock: ManualClock) -> None:
    """Where the operator serves no docs, neither `/` nor a guide is there."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, docs=False)) as api:
        for path in ("/", "/guides/how-to/webhooks"):
            assert (await api.client.get(path)).status_code == 404


def test_every_operation_has_a_group() -> None:
    """Each operation has one tag, and each tag one sentence and a guide."""
    built = document()
    tags = {tag["name"]: tag for tag in built["tags"]}
    assert all(tag["description"].endswith(".") and tag["externalDocs"]["url"] for tag in tags.values())
    for operation in OPERATIONS:
        (tag,) = built["paths"][operation.path][operation.method]["tags"]
        assert tag in tags
    assert len(GROUPS) == len(tags)


async def test_every_link_of_the_reference_and_the_guides_is_answered(memory_api: Api) -> None:
    """Links of the reference and of every guide lead to pages of this API that have the linked heading."""
    built = document()
    waiting = [(f"/guides/{name}", "") for name in guides()]
    waiting += [("/docs", tag["externalDocs"]["url"]) for tag in built["tags"]]
    waiting += [("/docs", link) for link in re.findall(r"\]\((.+?)\)", built["info"]["description"])]
    pages: dict[str, str] = {}
    assert len(guides()) > 10
    while waiting:
        source, link = waiting.pop()
        target = urlsplit(urljoin(source, link))
        if target.path not in pages:
            response = await memory_api.client.get(target.path)
            assert response.status_code == 200, (source, link)
            pages[target.path] = response.text
            if target.path.startswith("/guides/"):
                found = re.findall(r'href="([^":]+)"', response.text)
                waiting += [(target.path, one) for one in found if one != "data:,"]
        assert not target.fragment or f'id="{target.fragment}"' in pages[target.path], (source, link)


@pytest.mark.parametrize("name", ["how-to/nothing", "how-to/..%2fREADME", "reference/openapi.json", "../how-to/models"])
async def test_only_guides_are_served(memory_api: Api, name: str) -> None:
    """A path that is no guide gets 404, also one that leads to another file."""
    assert (await memory_api.client.get(f"/guides/{name}")).status_code == 404


async def test_a_guide_runs_no_script(memory_api: Api) -> None:
    """A guide's policy allows no script, and its style is a file of this API."""
    response = await memory_api.client.get("/guides/how-to/webhooks")
    assert "script-src" not in (policy := response.headers["content-security-policy"])
    assert "default-src 'none'" in policy
    assert (await memory_api.client.get("/docs/guide.css")).headers["content-type"].startswith("text/css")
