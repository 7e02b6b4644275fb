"""The engine's output during an attempt is kept, however the attempt ends."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from storage.jobs.record import Status
from tests.support.scripted_comfy import Play
from tests.support.stage import PATIENCE_S, paint, stage

pytestmark = pytest.mark.anyio


async def test_the_engines_output_is_stored_while_the_job_runs(tmp_path: Path) -> None:
    """The output of this attempt only is stored at intervals and at its end."""
    written, logged = asyncio.Event(), asyncio.Event()

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        on.log.append("during")
        logged.set()
        await written.wait()
        on.log.append("at the end")
        await play.succeed(outputs)

    async with stage(tmp_path, script) as on:
        on.policy = replace(on.policy, log_interval_s=0.02)
        on.log.append("before")
        claimed = await on.claimed()
        running = asyncio.create_task(on.run(claimed))
        await logged.wait()
        async with asyncio.timeout(PATIENCE_S):
            await on.objects.logged.wait()
        assert await on.logs.read("default", claimed.record.job_id, 1) == "during\n"
        written.set()
        await running
        assert await on.logs.read("default", claimed.record.job_id, 1) == "during\nat the end\n"


async def test_a_job_that_kills_its_worker_early_has_a_log(tmp_path: Path) -> None:
    """The first writes of a log come sooner than the interval between later ones."""
    logged = asyncio.Event()

    async def script(play: Play) -> None:
        on.log.append("the last words")
        logged.set()
        await asyncio.Event().wait()

    async with stage(tmp_path, script) as on:
        on.policy = replace(on.policy, log_interval_s=3600)
        claimed = await on.claimed()
        running = asyncio.create_task(on.run(claimed))
        await logged.wait()
        async with asyncio.timeout(PATIENCE_S):
            await on.objects.logged.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await on.logs.read("default", claimed.record.job_id, 1) == "the last words\n"


async def test_an_older_write_of_the_log_is_never_the_last(tmp_path: Path) -> None:
    """A write of the log that is in progress when the job ends is followed by the full log."""

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        on.log.append("early")
        await on.objects.entered.wait()
        on.log.append("late")
        await play.succeed(outputs)

    async with stage(tmp_path, script) as on:
        on.policy = replace(on.policy, log_interval_s=0.02)
        held = on.objects.held["log"] = asyncio.Event()
        claimed = await on.claimed()
        running = asyncio.create_task(on.run(claimed))
        await on.objects.entered.wait()
        asyncio.get_running_loop().call_later(0.3, held.set)
        await running
        assert await on.logs.read("default", claimed.record.job_id, 1) == "early\nlate\n"


async def test_a_log_that_cannot_be_written_fails_no_job(tmp_path: Path) -> None:
    """A job completes although the bucket refuses every write of its log."""

    async def script(play: Play) -> None:
        on.log.append("logged")
        await play.succeed(await paint(play, tmp_path))

    async with stage(tmp_path, script) as on:
        on.objects.failures["log"] = 1000
        ended = (await on.run(await on.claimed())).stored.record
        assert on.objects.failures["log"] < 1000
    assert ended.status is Status.COMPLETED
