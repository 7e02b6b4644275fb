"""Sessions of the pages: login, logout, the cookie, the origin of forms, tenants, and the headers of every answer."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from app.config import ApiConfig
from app.ui.sessions import LINK_LIFE, MOST_LINKS, SESSION_LIFE
from storage.access.key_store import CACHE_LIFE, new_record
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api, submit
from tests.support.browsers import HERE, browser_of, logged_in, ui_routes

pytestmark = pytest.mark.anyio


async def test_a_key_logs_in_and_the_logout_ends_it(memory_api: Api) -> None:
    """A valid key gets a cookie that scripts and other sites cannot use, and a logout removes it."""
    async with browser_of(memory_api) as browser:
        assert (await browser.get("/ui/jobs")).headers["location"] == "/ui/login?next=/ui/jobs"
        answer = await browser.post("/ui/login", {"key": f" {KEY}\n", "next": "/ui/workflows"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/workflows")
        cookie = answer.headers["set-cookie"]
        for part in ("HttpOnly", "SameSite=Strict", "Path=/ui", f"Max-Age={SESSION_LIFE.total_seconds():.0f}"):
            assert part in cookie
        assert KEY not in cookie
        assert (await browser.get("/ui/jobs")).status_code == 200
        ended = await browser.submit("/ui/jobs", "/ui/logout")
        assert ended.headers["location"] == "/ui/login"
        assert (await browser.get("/ui/jobs")).status_code == 303


@pytest.mark.parametrize("key", ["", "wrong", "ck_live_aaaaaaaa_x_00000000", "<script>alert(1)</script>", "é" * 9])
async def test_an_invalid_key_gets_no_cookie(memory_api: Api, key: str) -> None:
    """Every invalid key is refused in the same words, which do not repeat it."""
    async with browser_of(memory_api) as browser:
        answer = await browser.post("/ui/login", {"key": key})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "The api key is not valid" in answer.text
    assert "alert(1)" not in answer.text


async def test_https_gets_a_cookie_that_other_hosts_cannot_set(memory_api: Api) -> None:
    """Over HTTPS, also behind a proxy, the cookie has the prefix __Host-, which needs Secure and the whole path."""
    host = urlsplit(str(memory_api.client.base_url)).netloc
    async with browser_of(memory_api) as browser:
        headers = {"origin": f"https://{host}", "sec-fetch-site": "same-origin"}
        answer = await browser.client.post("/ui/login", data={"key": KEY}, headers=headers)
        name, _, rest = answer.headers["set-cookie"].partition("=")
        assert name.startswith("__Host-")
        assert "Path=/; Secure;" in rest
        token = rest.partition(";")[0]
        # The same token under the plain name, as a neighbour without HTTPS could set it, opens nothing.
        for cookie, status in ((name, 200), (name.removeprefix("__Host-"), 303)):
            page = await browser.client.get("/ui/jobs", headers={"cookie": f"{cookie}={token}"})
            assert page.status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "origin": HERE},
    ],
)
async def test_no_other_page_can_log_in(memory_api: Api, headers: Mapping[str, str]) -> None:
    """A login from another origin, another port of this host included, is refused and sets no cookie."""
    async with browser_of(memory_api) as browser:
        answer = await browser.post("/ui/login", {"key": KEY}, headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_every_form_needs_its_origin_and_its_token(memory_api: Api) -> None:
    """Every POST of the pages is refused from another origin, and without the token of the session."""
    paths = [path for method, path in ui_routes() if method == "POST" and path not in PUBLIC_POSTS]
    assert len(paths) >= 5
    async with logged_in(memory_api) as browser, logged_in(memory_api) as other:
        strange = await other.token()
        for path in paths:
            filled = re.sub(r"{[^}]*}", "x", path)
            token = await browser.token()
            for fields in ({}, {"csrf": ""}, {"csrf": "é"}, {"csrf": strange}):
                assert (await browser.post(filled, fields)).status_code == 403, path
            for site in ("cross-site", "same-site", "none"):
                answer = await browser.post(filled, {"csrf": token}, {"sec-fetch-site": site})
                assert answer.status_code == 403, path


async def test_no_page_is_shown_without_a_session(memory_api: Api) -> None:
    """Every page but those of the login leads to the login, a fragment by htmx's header."""
    async with browser_of(memory_api) as browser:
        for method, path in ui_routes():
            filled = re.sub(r"{[^}]*}", "x", path)
            if filled in ("/ui", "/ui/", "/ui/login", "/ui/open", "/ui/links", "/ui/static/x"):
                continue
            answer = await (browser.get(filled) if method == "GET" else browser.post(filled, {}))
            assert (answer.status_code, urlsplit(answer.headers["location"]).path) == (303, "/ui/login"), path
        fragment = await browser.client.get("/ui/jobs", headers={"hx-request": "true"})
        assert (fragment.status_code, fragment.headers["hx-redirect"]) == (401, "/ui/login")


async def test_the_api_takes_no_cookie(memory_api: Api) -> None:
    """A session opens no path of the API, so no other site can use one there."""
    async with logged_in(memory_api) as browser:
        for path in ("/v1/jobs", "/v1/workflows", "/v1/system"):
            assert (await browser.get(path)).status_code == 401


async def test_a_revoked_key_ends_its_sessions(memory_api: Api, clock: ManualClock) -> None:
    """A session ends as soon as its key is refused, which is when the key's cached record expires."""
    key = await memory_api.new_key("acme")
    async with logged_in(memory_api, key) as browser:
        assert (await browser.get("/ui/jobs")).status_code == 200
        await memory_api.stores.api_keys.revoke(key.split("_")[2])
        clock.set(clock.now() + CACHE_LIFE + timedelta(seconds=1))
        assert (await browser.get("/ui/jobs")).status_code == 303


async def test_a_session_ends_after_its_time_and_with_its_key(memory_api: Api, clock: ManualClock) -> None:
    """A session lasts 12 hours, and never longer than its key."""
    expiring = await memory_api.new_key("acme", expires_at=clock.now() + timedelta(hours=1))
    async with logged_in(memory_api) as long, logged_in(memory_api, expiring) as short:
        clock.set(clock.now() + timedelta(hours=1, seconds=1))
        assert (await short.get("/ui/jobs")).status_code == 303
        assert (await long.get("/ui/jobs")).status_code == 200
        clock.set(clock.now() + SESSION_LIFE)
        assert (await long.get("/ui/jobs")).status_code == 303


async def test_an_altered_cookie_costs_no_lookup(memory_api: Api) -> None:
    """No part of a cookie can be changed, and an invented one is refused without a request to the bucket."""
    objects = memory_api.objects
    assert isinstance(objects, MemoryObjectStore)
    key = await memory_api.new_key("acme")
    async with logged_in(memory_api, key) as browser:
        (name, token), *_ = browser.client.cookies.items()
        parts = token.split(".")
        forged = [".".join([*parts[:at], _other(parts[at]), *parts[at + 1 :]]) for at in range(len(parts))]
        assert len(forged) == 6
        for text in (*forged, "", "x", token + ".x", f"settings.{token.partition('.')[2]}"):
            page = await browser.client.get("/ui/jobs", headers={"cookie": f"{name}={text}"})
            assert page.status_code == 303, text


async def test_a_tenant_sees_and_changes_nothing_of_another(memory_api: Api) -> None:
    """A job of another tenant is answered like one that does not exist, on every page and for every form."""
    mine = (await submit(memory_api))["job_id"]
    nothing = "00000000-0000-4000-8000-000000000000"
    async with logged_in(memory_api, await memory_api.new_key("acme")) as stranger:
        assert mine[:8] not in (await stranger.get("/ui/jobs")).text
        token = await stranger.token()
        for method, path in ui_routes():
            if "{job_id}" not in path:
                continue
            answers = []
            for job_id in (mine, nothing):
                filled = path.replace("{job_id}", job_id).replace("{event_id}", f"job.{job_id}.1")
                sent = stranger.get(filled) if method == "GET" else stranger.post(filled, {"csrf": token})
                answer = await sent
                answers.append((answer.status_code, answer.text.replace(job_id, "ID")))
            assert answers[0] == answers[1], path
            assert answers[0][0] == 404, path
    assert (await memory_api.client.get(f"/v1/jobs/{mine}")).json()["status"] == "queued"


async def test_only_an_operator_looks_at_another_tenant(memory_api: Api) -> None:
    """A key of the tenant default with the scope admin sees and acts for another tenant, and no other key does."""
    async with await memory_api.client_of("acme") as acme:
        job_id = (await acme.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
    operator, admin = await memory_api.new_key("default", "admin"), await memory_api.new_key("globex", "admin")
    for key in (admin, await memory_api.new_key("default")):
        async with logged_in(memory_api, key) as browser:
            refused = await browser.post("/ui/tenant", {"csrf": await browser.token(), "tenant": "acme"})
            assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
    async with logged_in(memory_api, operator) as browser:
        for tenant in ("", "../acme", "a" * 99, "Acme"):
            fields = {"csrf": await browser.token(), "tenant": tenant}
            assert (await browser.post("/ui/tenant", fields)).status_code == 422
        assert job_id not in (await browser.get("/ui/jobs")).text
        await browser.post("/ui/tenant", {"csrf": await browser.token(), "tenant": "acme"})
        page = (await browser.get("/ui/jobs")).text
        assert job_id in page
        assert "You view the tenant <b>acme</b>" in page
        await browser.submit("/ui/jobs", f"/ui/jobs/{job_id}/cancel")
        assert "Cancelled by user" in (await browser.get(f"/ui/jobs/{job_id}")).text
        await browser.post("/ui/tenant", {"csrf": await browser.token(), "tenant": "default"})
        assert job_id not in (await browser.get("/ui/jobs")).text


async def test_a_key_that_only_reads_cannot_act(memory_api: Api) -> None:
    """A session has the scopes of its key: one that only reads sees the jobs and is refused every action but logout."""
    async with logged_in(memory_api, await memory_api.new_key("acme", "jobs:read")) as browser:
        token = await browser.token()
        for method, path in ui_routes():
            if method == "POST" and path not in PUBLIC_POSTS and path != "/ui/logout":
                answer = await browser.post(re.sub(r"{[^}]*}", "x", path), {"csrf": token})
                assert answer.status_code == 403, path
                assert "jobs:write" in answer.text or "admin" in answer.text
        assert (await browser.submit("/ui/jobs", "/ui/logout")).headers["location"] == "/ui/login"


async def test_a_key_makes_no_wider_key(memory_api: Api, clock: ManualClock) -> None:
    """A key that is made by the page ends with its maker's key, and its graphs have the same rules."""
    ends_at = clock.now() + timedelta(minutes=10)
    key, record = new_record("acme", now=clock.now(), scopes=["admin"], expires_at=ends_at, graphs="strangers")
    await memory_api.stores.api_keys.add(record)
    async with logged_in(memory_api, key) as browser:
        await browser.submit("/ui/keys", "/ui/keys", **{"scope.jobs:write": "on", "life": "never"})
    (made,) = [one for one in await memory_api.stores.api_keys.all() if one.scopes == ("jobs:write",)]
    assert (made.tenant, made.expires_at, made.graphs) == ("acme", ends_at, "strangers")


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_form_that_arrives_after_its_key_has_ended_does_nothing(
    memory_api: Api, clock: ManualClock, end: str
) -> None:
    """A form that began under a valid key and arrives after the key's end is refused: it could make another key."""
    key, record = new_record("acme", now=clock.now(), scopes=["admin"], expires_at=clock.now() + timedelta(minutes=1))
    await memory_api.stores.api_keys.add(record)
    async with logged_in(memory_api, key) as browser:
        fields = {"csrf": await browser.token(), "scope.jobs:write": "on", "life": "never"}
        begun, has_ended = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"life=never&"
            begun.set()
            await has_ended.wait()
            yield urlencode(fields).encode()

        origin = str(browser.client.base_url).rstrip("/")
        headers = {"origin": origin, "content-type": "application/x-www-form-urlencoded"}
        sending = asyncio.create_task(browser.client.post("/ui/keys", content=slow(), headers=headers))
        await begun.wait()
        await asyncio.sleep(0.05)  # the request's head has been read
        if end == "revoked":
            await memory_api.stores.api_keys.revoke(record.kid)
        else:
            clock.set(clock.now() + timedelta(minutes=2))
        has_ended.set()
        assert (await sending).status_code == 401
    assert [one.kid for one in await memory_api.stores.api_keys.all() if one.tenant == "acme"] == [record.kid]


async def test_links_of_one_key_do_not_end_those_of_another(memory_api: Api) -> None:
    """A key follows a bounded number of links a minute, which leaves the links of other keys alone."""
    async with await memory_api.client_of("acme") as acme, browser_of(memory_api) as browser:

        async def followed(client: httpx.AsyncClient) -> int:
            token = (await client.post("/ui/links")).json()["path"].partition("token=")[2]
            return (await browser.post("/ui/open", {"token": token})).status_code

        answers = [await followed(acme) for _ in range(MOST_LINKS + 1)]
        assert (set(answers[:-1]), answers[-1]) == ({303}, 401)
        assert await followed(memory_api.client) == 303


@pytest.mark.parametrize("others", ["x=1; ", 'a="' + "\\\\" * 30_000 + '"; ', "a=b;" * 12_000, 'q="; '])
async def test_other_cookies_cost_little(memory_api: Api, others: str) -> None:
    """A session is found among other cookies of the host, of whatever size and form, in linear time.

    With `http.cookies` of Python before 3.11.10, the second one stopped the API for seconds.
    """
    async with logged_in(memory_api) as browser:
        (name, cookie), *_ = browser.client.cookies.items()
        browser.client.cookies.clear()
        page = await browser.client.get("/ui/jobs", headers={"cookie": f"{others}{name}={cookie}"})
        assert page.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/ui/../v1",
        "/ui//evil.example",
        "javascript:alert(1)",
    ],
)
async def test_a_login_leads_to_no_other_site(memory_api: Api, path: str) -> None:
    """After a login the browser goes to a page of ours, whatever the link before it said."""
    async with browser_of(memory_api) as browser:
        shown = await browser.client.get("/ui/login", params={"next": path})
        assert 'name="next" value="/ui"' in shown.text
        answer = await browser.post("/ui/login", {"key": KEY, "next": path})
    assert answer.headers["location"] == "/ui/jobs"


@pytest.mark.parametrize("site", ["none", "cross-site", "same-origin", None])
async def test_a_link_logs_in_once_and_after_a_question(memory_api: Api, clock: ManualClock, site: str | None) -> None:
    """A one-time link asks, wherever it was opened, with the tenant and key, and opens one session within a minute."""
    async with browser_of(memory_api) as browser:
        assert (await browser.client.post("/ui/links")).status_code == 401
        first, second = [(await memory_api.client.post("/ui/links")).json()["path"] for _ in range(2)]
        token = first.partition("token=")[2]
        followed = {} if site is None else {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
        for _ in range(2):
            asked = await browser.client.get(first, headers=followed)
            assert (asked.status_code, "set-cookie" in asked.headers) == (200, False)
            assert "of the tenant <b>default</b>" in asked.text
            assert "logged in now" not in asked.text
        opened = await browser.post("/ui/open", {"token": token})
        assert (opened.status_code, opened.headers["location"]) == (303, "/ui/jobs")
        assert (await browser.get("/ui/jobs")).status_code == 200
        browser.client.cookies.clear()
        for used in (token, f"x{token}"):
            shown = await browser.client.get(f"/ui/open?token={used}", headers=followed)
            again = await browser.post("/ui/open", {"token": used})
            for answer in (shown, again):
                assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
        clock.set(clock.now() + LINK_LIFE + timedelta(seconds=1))
        assert (await browser.client.get(second, headers=followed)).status_code == 401


async def test_a_link_of_another_key_says_so(memory_api: Api) -> None:
    """A link that would replace a session by one of another key names both."""
    async with await memory_api.client_of("other") as other, logged_in(memory_api) as browser:
        shown = (await browser.client.get((await other.post("/ui/links")).json()["path"])).text
    assert "of the tenant <b>other</b>" in shown
    assert "logged in now by the key" in shown


async def test_a_link_is_no_cookie_and_a_cookie_no_link(memory_api: Api) -> None:
    """A token serves only the purpose that it was issued for."""
    async with logged_in(memory_api) as browser:
        (name, cookie), *_ = browser.client.cookies.items()
        link = (await memory_api.client.post("/ui/links")).json()["path"].partition("token=")[2]
        browser.client.cookies.clear()
        page = await browser.client.get("/ui/jobs", headers={"cookie": f"{name}={link}"})
        assert page.status_code == 303
        assert (await browser.client.get(f"/ui/open?token={cookie}")).status_code == 401
        assert (await browser.post("/ui/open", {"token": cookie})).status_code == 401


async def test_every_answer_of_the_pages_has_a_strict_policy(memory_api: Api) -> None:
    """Pages, fragments, redirects and refusals allow no inline script or style, no frame and no foreign form."""
    async with logged_in(memory_api) as browser, browser_of(memory_api) as guest:
        for method, path in ui_routes():
            filled = re.sub(r"{[^}]*}", "x", path)
            for user in (browser, guest):
                answer = await (user.get(filled) if method == "GET" else user.post(filled, {}))
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'"), path
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
        page = await browser.get("/ui/jobs")
        assert "script-src 'self';" in page.headers["content-security-policy"]
        assert (page.headers["referrer-policy"], page.headers["cache-control"]) == ("same-origin", "no-store")


async def test_the_pages_can_be_left_out(clock: ManualClock) -> None:
    """Where the operator serves no pages, nothing of them is there."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, ui=False)) as api:
        for path in ("/ui", "/ui/login", "/ui/static/ui.css"):
            assert (await api.client.get(path)).status_code == 404


async def test_a_large_form_is_refused(memory_api: Api) -> None:
    """A form of more than 4 MiB, without a session of more than 8 KiB, of another type or of many fields is refused."""
    async with browser_of(memory_api) as guest, logged_in(memory_api) as browser:
        assert (await guest.post("/ui/login", {"key": "x" * 9_000})).status_code == 413
        token = await browser.token()
        run = "/ui/workflows/words/run"
        assert (await browser.post(run, {"csrf": token, "input.first": "x" * 5_000_000})).status_code == 413
        assert (await browser.post(run, {"csrf": token, "input.first": "é" * 300_000})).status_code == 303
        assert (await guest.post("/ui/login", {f"k{n}": "" for n in range(600)})).status_code == 422
        headers = {"origin": str(guest.client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
        assert (await guest.client.post("/ui/login", json={"key": KEY}, headers=headers)).status_code == 415


PUBLIC_POSTS = ("/ui/login", "/ui/open", "/ui/links")


def _other(part: str) -> str:
    return ("b" if part[:1] != "b" else "c") + part[1:] if not part.isdecimal() else str(int(part) + 1)
