"""Logs of `up`'s processes stay small, and their last lines can be read."""

import os
from pathlib import Path

import pytest

from infra.local.children import Child, ChildSpec
from infra.local.log_files import bound_logs, end_of
from tests.support.environment import MEASURED
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

LIMIT = 10_000
TIME_LIMIT_S = 60


def numbers(*logs: Path) -> list[int]:
    return [int(line) for log in logs for line in log.read_bytes().splitlines()]


def write(log: int, first: int, last: int) -> None:
    os.write(log, b"".join(b"%06d\n" % number for number in range(first, last)))


@pytest.mark.parametrize("name", ["api.log", "weed.out"])
def test_a_log_above_its_limit_is_rotated(tmp_path: Path, name: str) -> None:
    """The newest lines are kept, and the writer continues at the new end of the same file."""
    log, older = tmp_path / name, tmp_path / f"{name}.1"
    with log.open("ab", buffering=0) as writer:
        write(writer.fileno(), 0, 5_000)
        bound_logs([tmp_path], LIMIT)
        assert log.stat().st_size == 0
        assert older.stat().st_size == LIMIT
        write(writer.fileno(), 5_000, 5_003)
        assert numbers(log) == [5_000, 5_001, 5_002]
        assert older.read_bytes().endswith(b"004999\n")
        write(writer.fileno(), 5_003, 8_000)
        bound_logs([tmp_path], LIMIT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, older.name]
    assert older.read_bytes().endswith(b"007999\n")
    assert log.stat().st_size + older.stat().st_size == LIMIT


def test_a_log_within_its_limit_is_not_changed(tmp_path: Path) -> None:
    """A log within its limit is not rotated, and other files of the folder are not changed."""
    (tmp_path / "api.log").write_bytes(b"x" * LIMIT)
    (tmp_path / "notes.txt").write_bytes(b"x" * 3 * LIMIT)
    bound_logs([tmp_path, tmp_path / "absent"], LIMIT)
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "api.log": LIMIT,
        "notes.txt": 3 * LIMIT,
    }


def test_a_log_is_cut_although_its_copy_fails(tmp_path: Path) -> None:
    """A log is cut even if its older part cannot be written, for example on a full disk."""
    (tmp_path / "api.log.1").mkdir()
    (tmp_path / "api.log").write_bytes(b"x" * 2 * LIMIT)
    bound_logs([tmp_path], LIMIT)
    assert (tmp_path / "api.log").stat().st_size == 0


def test_the_end_of_a_rotated_log_starts_in_its_older_part(tmp_path: Path) -> None:
    """The last bytes of a rotated log are read from the older part as well."""
    log = tmp_path / "api.log"
    log.write_bytes(b"x" * LIMIT + b" cannot start: no")
    assert end_of(log, 5) == "t: no"
    bound_logs([tmp_path], LIMIT)
    assert end_of(log, 5) == "t: no"
    log.write_bytes(b" bucket")
    assert end_of(log, len("start: no bucket")) == "start: no bucket"
    assert end_of(log, 3) == "ket"


async def test_the_log_of_a_process_that_never_stops_writing_is_limited(tmp_path: Path) -> None:
    """A log and its older part stay within their limits while the process continues to write."""
    log = tmp_path / "child.log"
    spec = ChildSpec("child", "tests.support.writes", (), {"PATH": os.defpath} | MEASURED, log)
    writer = Child(spec)
    writer.start()
    try:
        for _ in range(5):
            await until(lambda: log.exists() and log.stat().st_size > LIMIT, TIME_LIMIT_S)
            bound_logs([tmp_path], LIMIT)
        await until(lambda: log.stat().st_size > 0, TIME_LIMIT_S)
    finally:
        await writer.stop(1)
    assert (tmp_path / "child.log.1").stat().st_size >= LIMIT - 7
    assert b"\0" not in log.read_bytes()  # a writer that does not append would leave a hole
    written = numbers(log)
    assert written == sorted(written)
    assert written[0] > 5 * LIMIT // 7
