"""The page of usage: its sums and charts, whose jobs it shows, and what it costs."""

import html
import re
from collections import Counter
from datetime import timedelta

import pytest

from app.ui.chart import BASE, TOP, chart_of
from app.ui.usage import DAYS, MOST_JOBS
from storage.clock import ManualClock
from storage.jobs.models import GpuTime
from tests.support.api_server import Api, running_api, submit
from tests.support.browsers import logged_in
from tests.support.counted_bucket import CountedBucket
from tests.support.crowds import completed, fill_listed

pytestmark = pytest.mark.anyio


def rows(page: str, title: str) -> dict[str, list[str]]:
    """Return the rows of the table with this first heading, by their first cells."""
    table = re.search(rf'<th scope="col">{re.escape(title)}</th>.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert table is not None, title
    found = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table[1].split("</tr>") if row.strip())
    return {name: list(cells) for name, *cells in found}


async def test_usage_adds_up_the_jobs_by_day_and_workflow(memory_api: Api, clock: ManualClock) -> None:
    """Jobs, failures, seconds, seconds of GPUs and money are added up by day and workflow, as charts and as tables."""
    now = clock.now()
    l4 = (GpuTime(gpu="NVIDIA L4", seconds=60, usd=0.5), GpuTime(gpu=None, seconds=30))
    jobs = [
        completed(now, workflow_name="still").model_copy(update={"usage": l4}),
        completed(now - timedelta(days=1)).model_copy(update={"usage": l4[1:]}),
        completed(now - timedelta(days=DAYS + 1)),
    ]
    await fill_listed(memory_api.objects, jobs)
    await memory_api.client.delete(f"/v1/jobs/{(await submit(memory_api))['job_id']}")
    async with logged_in(memory_api) as browser:
        page = html.unescape((await browser.get("/ui/usage")).text)
    today, yesterday = (f"{day:%Y-%m-%d}" for day in (now, now - timedelta(days=1)))
    by_day = rows(page, "Day (UTC)")
    assert len(by_day) == DAYS
    assert by_day[today] == ["2", "1", "1 min 30 s", "1 min 0 s", "$0.5000"]
    assert by_day[yesterday] == ["1", "0", "30 s", "–", "–"]
    assert list(rows(page, "Workflow")) == ["still", "own graphs"]
    assert re.findall(r'aria-label="([^"]+)\. The table', page) == [
        f"Jobs by day, most on {today}: 2",
        f"GPU time by day, most on {today}: 1 min 0 s",
        f"Cost by day, most on {today}: $0.5000",
    ]
    assert page.count("<rect") == 2 + 1 + 1 + 1  # two days with jobs, of which one has a failed one, time and cost
    assert "Tenant</th>" not in page


async def test_an_operator_sees_the_usage_of_all_tenants(memory_api: Api, clock: ManualClock) -> None:
    """An operator sees the sums of each tenant that has a key; a tenant sees its own jobs and is refused the others."""
    acme = await memory_api.new_key("acme", "admin")
    await fill_listed(memory_api.objects, [completed(clock.now()), completed(clock.now(), tenant="acme")])
    async with logged_in(memory_api) as browser:
        assert rows((await browser.get("/ui/usage?tenants=all")).text, "Tenant").keys() == {"default", "acme"}
        assert "Tenant</th>" not in (await browser.get("/ui/usage")).text
    async with logged_in(memory_api, acme) as browser:
        refused = await browser.get("/ui/usage?tenants=all")
        assert (refused.status_code, "other tenants" in refused.text) == (403, True)
        page = (await browser.get("/ui/usage")).text
        assert ("tenants=all" in page, rows(page, "Workflow")["own graphs"][0]) == (False, "1")


async def test_usage_reads_a_bounded_number_of_jobs(clock: ManualClock) -> None:
    """The page reads at most 1,000 jobs, says that there are more, and reads none again within a minute."""
    bucket = CountedBucket(clock)
    jobs = [completed(clock.now() - timedelta(seconds=n)) for n in range(MOST_JOBS + 5)]
    await fill_listed(bucket, jobs)
    async with running_api(bucket, clock) as api, logged_in(api) as browser:
        bucket.take()
        page = (await browser.get("/ui/usage")).text
        spent = bucket.take().requests
        assert spent["GET"] == MOST_JOBS == int(rows(page, "Workflow")["own graphs"][0])
        assert spent == Counter({"GET": MOST_JOBS, "LIST": 1})
        assert "there were more jobs than that" in page
        await browser.get("/ui/usage")
        assert bucket.take().requests == Counter()


async def test_all_tenants_together_cost_no_more_jobs(clock: ManualClock) -> None:
    """The tenants share the jobs that are read: what one more tenant costs is a LIST, and its jobs."""
    bucket = CountedBucket(clock)
    async with running_api(bucket, clock) as api:
        for tenant in ("acme", "globex"):
            await api.new_key(tenant)
            jobs = [completed(clock.now() - timedelta(seconds=n), tenant=tenant) for n in range(400)]
            await fill_listed(bucket, jobs)
        async with logged_in(api) as browser:
            bucket.take()
            page = (await browser.get("/ui/usage?tenants=all")).text
            share = MOST_JOBS // 3
            assert {name: cells[0] for name, cells in rows(page, "Tenant").items()} == {
                "acme": str(share),
                "globex": str(share),
            }
            assert bucket.take().requests == Counter({"LIST": 1 + 3, "GET": 2 + 2 * share})


def test_the_bars_of_a_chart_are_as_high_as_their_values() -> None:
    """The tallest bar reaches the top line, the others are in proportion, and a chart without values has no height."""
    chart = chart_of("Jobs", ["2026-11-01", "2026-11-02"], [4, 1], str, [2, 0])
    first, second = chart.bars
    assert (first.y, first.height, first.marked) == (TOP, BASE - TOP, (BASE - TOP) / 2)
    assert (second.height, second.label) == ((BASE - TOP) / 4, "11-02")
    assert [bar.height for bar in chart_of("Jobs", ["2026-11-01"], [0], str).bars] == [0]
