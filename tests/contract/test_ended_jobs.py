"""The lines that `comfyui-modal up` prints for jobs that have ended, from real log files."""

import contextlib
import json
import logging
import os
from pathlib import Path

import pytest

from infra.cli.up import write_if_read
from infra.local.ended_jobs import MAX_LINES, EndedJobs, LogFollower
from infra.logs import JsonFormatter
from infra.secrecy import Redactor
from storage.clock import ManualClock
from tests.support.api_server import Api, submit, work

pytestmark = pytest.mark.anyio


def line(number: int, status: str = "completed") -> str:
    record = {"message": "job ended", "job_id": f"j{number}", "workflow": "still", "status": status, "seconds": 3.21}
    return json.dumps(record | ({"error_code": "timeout"} if status == "failed" else {})) + "\n"


def printed(follower: LogFollower) -> list[str]:
    """Return the lines that one pass prints."""
    ended, lines = EndedJobs(), []
    for record in follower.ended():
        ended.add(record)
    while (one := ended.next_line()) is not None:
        lines.append(one)
        ended.drop_line()
    return lines


def test_each_end_is_printed_once(tmp_path: Path) -> None:
    """What was logged before is not printed, a line is printed once it is whole, and a rotated log is read on."""
    log = tmp_path / "worker-1.log"
    log.write_text(line(1))
    follower = LogFollower(tmp_path)
    with log.open("a") as file:
        file.write("{broken job ended\n" + line(2, "failed") + line(3)[:20])
    (tmp_path / "api.log").write_text(line(4))
    assert printed(follower) == ["job j4  still  completed  3.2 s", "job j2  still  failed (timeout)  3.2 s"]
    with log.open("a") as file:
        file.write(line(3)[20:])
    assert printed(follower) == ["job j3  still  completed  3.2 s"]
    log.write_text(line(5))
    assert printed(follower) == ["job j5  still  completed  3.2 s"]
    assert printed(follower) == []


def test_many_ends_do_not_flood(tmp_path: Path) -> None:
    """Of many jobs that end at once the first are printed, and the others are counted."""
    follower = LogFollower(tmp_path)
    ends = [line(number) for number in range(100)] + [line(100, "failed")]
    (tmp_path / "worker-1.log").write_text("".join(ends))
    lines = printed(follower)
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == f"… and {100 - MAX_LINES} more completed, 1 more failed"


async def test_a_reader_that_stops_does_not_stop_up() -> None:
    """A line is written only where it need not wait for a reader, and a closed pipe is no error."""
    reader, writer = os.pipe()
    with open(writer, "w") as full, contextlib.redirect_stdout(full):  # noqa: ASYNC230, PTH123  a pipe has no path
        for _ in range(1 << 20):
            if not write_if_read("x" * 100):
                break
        else:
            pytest.fail("a pipe that nobody reads took everything")
        assert len(os.read(reader, 1 << 20)) >= 4096
        assert write_if_read("y")
        os.close(reader)
        assert write_if_read("z")


async def test_the_end_of_a_job_is_logged_once(
    memory_api: Api, clock: ManualClock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The process that commits a job's end logs it in the form that is printed, also for a job that never started."""
    follower, formatter = LogFollower(tmp_path), JsonFormatter("worker-1", Redactor(()))
    with caplog.at_level(logging.INFO, "storage.jobs.store"):
        done = (await submit(memory_api))["job_id"]
        await work(memory_api)
        cancelled = (await submit(memory_api))["job_id"]
        for _ in range(2):
            await memory_api.client.delete(f"/v1/jobs/{cancelled}")
    ends = [record for record in caplog.records if record.name == "storage.jobs.store"]
    (tmp_path / "worker-1.log").write_text("".join(f"{formatter.format(record)}\n" for record in ends))
    first, second = printed(follower)
    assert first.startswith(f"job {done}  graph ")
    assert first.endswith("  completed  0.0 s")
    assert second.endswith("  failed (cancelled)  never started")
