"""A browser without scripts: it keeps cookies, says where its requests come from, and sends the forms of pages."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx
from starlette.routing import Route

from app.ui import ROUTES
from app.ui.guard import ROOT
from tests.support.api_server import KEY, Api
from tests.support.plain_http import NO_TLS

HERE = "http://this.page"
"""Stands for the origin of the API in the headers of a test."""


@dataclass(frozen=True, slots=True)
class Browser:
    client: httpx.AsyncClient

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)

    async def post(
        self, path: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a form; without `headers` as from a page of the same origin."""
        origin = str(self.client.base_url).rstrip("/")
        given = {"origin": HERE, "sec-fetch-site": "same-origin"} if headers is None else headers
        sent = {name: origin if text == HERE else text for name, text in given.items()}
        sent["content-type"] = "application/x-www-form-urlencoded"
        return await self.client.post(path, content=urlencode(fields), headers=sent)

    async def token(self) -> str:
        """Return the token that forms of this session carry."""
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get(f"{ROOT}/jobs")).text)
        assert found is not None
        return found[1]

    async def submit(self, page: str, path: str, **fields: str) -> httpx.Response:
        """Open a page and send its form with this action."""
        text = (await self.get(page)).text
        assert f'action="{path}"' in text, path
        return await self.post(path, {"csrf": await self.token(), **fields})


@asynccontextmanager
async def browser_of(api: Api) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(base_url=api.client.base_url, verify=NO_TLS, timeout=30) as client:
        yield Browser(client)


@asynccontextmanager
async def logged_in(api: Api, key: str = KEY) -> AsyncIterator[Browser]:
    async with browser_of(api) as browser:
        answer = await browser.post(f"{ROOT}/login", {"key": key})
        assert answer.status_code == 303, answer.text
        yield browser


def ui_routes() -> list[tuple[str, str]]:
    """Return the method and path of every route of the pages but the stream of all jobs, which does not end."""
    routes: tuple[Route, ...] = ROUTES
    return [
        (method, f"{ROOT}{route.path}")
        for route in routes
        for method in sorted(route.methods or ())
        if method != "HEAD" and route.path != "/events"
    ]
