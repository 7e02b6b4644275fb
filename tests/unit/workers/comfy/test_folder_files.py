"""Input files and outputs in ComfyUI's folders, and what must not leave or enter them."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.comfy.engine import FileRef
from workers.comfy.files import FolderFiles, remove_stale_folders
from workers.errors import EngineUnavailable, OutputFailed, StagingFailed

pytestmark = pytest.mark.anyio

MEMORY = Path("/dev/shm")  # noqa: S108  a file system, not a name that could be guessed


@pytest.fixture
def files(tmp_path: Path) -> FolderFiles:
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret").write_text("secret")
    return FolderFiles(input_dir=tmp_path / "input", output_dir=tmp_path / "output", temp_dir=tmp_path / "temp")


async def test_an_output_is_fetched_from_each_folder(files: FolderFiles, tmp_path: Path) -> None:
    """An output is fetched from the folder of its type, with its subfolders."""
    for kind in ("input", "output", "temp"):
        path = tmp_path / kind / "a" / "b" / "x.png"
        path.parent.mkdir(parents=True)
        path.write_text(kind)
        assert (await files.fetch(FileRef("x.png", "a/b", kind), files.private_folder())).read_text() == kind


def _link(folder: Path) -> FileRef:
    (folder / "x").symlink_to(folder.parent / "secret")
    return FileRef("x", "", "output")


def _linked_folder(folder: Path) -> FileRef:
    (folder / "up").symlink_to(folder.parent)
    return FileRef("secret", "up", "output")


def _circle(folder: Path) -> FileRef:
    (folder / "x").symlink_to(folder / "x")
    return FileRef("x", "", "output")


def _pipe(folder: Path) -> FileRef:
    os.mkfifo(folder / "x")
    return FileRef("x", "", "output")


def _folder(folder: Path) -> FileRef:
    (folder / "x").mkdir()
    return FileRef("x", "", "output")


@pytest.mark.parametrize("make", [_link, _linked_folder, _circle, _pipe, _folder])
async def test_only_regular_files_of_the_folder_are_fetched(
    files: FolderFiles, tmp_path: Path, make: Callable[[Path], FileRef]
) -> None:
    """Links that lead outside, circular links, pipes and folders are not fetched."""
    with pytest.raises(OutputFailed):
        await files.fetch(make(tmp_path / "output"), files.private_folder())


@pytest.mark.parametrize(
    ("filename", "subfolder"),
    [("secret", ".."), ("../secret", ""), ("", ""), ("x\0", ""), ("x" * 5000, ""), ("secret", "a/../..")],
)
async def test_a_name_cannot_leave_the_folder(files: FolderFiles, filename: str, subfolder: str) -> None:
    """A name that leads outside the folder, or that no file can have, fails the output."""
    with pytest.raises(OutputFailed):
        await files.fetch(FileRef(filename, subfolder, "output"), files.private_folder())


async def test_an_absolute_path_is_not_followed(files: FolderFiles, tmp_path: Path) -> None:
    """An absolute path, which some nodes report, fails the output."""
    with pytest.raises(OutputFailed):
        await files.fetch(FileRef(str(tmp_path / "secret"), "", "output"), files.private_folder())


async def test_cleaning_empties_and_keeps_the_folders(files: FolderFiles, tmp_path: Path) -> None:
    """Cleaning removes links without following them and restores a missing folder."""
    (tmp_path / "output" / "sub").mkdir()
    (tmp_path / "output" / "sub" / "x").touch()
    (tmp_path / "output" / "link").symlink_to(tmp_path)
    (tmp_path / "temp").rmdir()
    await files.clean()
    assert {path.name for path in tmp_path.iterdir()} == {"input", "output", "temp", "secret"}
    assert not list((tmp_path / "output").iterdir())


async def test_files_of_nodes_in_the_user_folder_are_removed(tmp_path: Path) -> None:
    """Cleaning removes what nodes write to the user folder and keeps ComfyUI's open database."""
    folders: dict[str, Any] = {f"{name}_dir": tmp_path / name for name in ("input", "output", "temp", "user")}
    kept, gone = tmp_path / "user" / "comfyui.db", tmp_path / "user" / "default" / "notes" / "x"
    gone.parent.mkdir(parents=True)
    gone.touch()
    kept.touch()
    await FolderFiles(**folders).clean()
    assert kept.exists()
    assert not list((tmp_path / "user" / "default").iterdir())


async def test_a_folder_that_cannot_be_emptied_makes_the_engine_unavailable(files: FolderFiles, tmp_path: Path) -> None:
    """An engine whose folders cannot be emptied is unavailable, so that no job sees another job's files."""
    (tmp_path / "temp").rmdir()
    (tmp_path / "temp").touch()
    with pytest.raises(EngineUnavailable):
        await files.clean()


async def test_staging_a_missing_file_fails(files: FolderFiles, tmp_path: Path) -> None:
    """Staging a missing file raises StagingFailed, not an OSError."""
    with pytest.raises(StagingFailed):
        await files.stage("x.png", tmp_path / "nothing")


async def test_an_input_file_is_staged_below_folders(files: FolderFiles, tmp_path: Path) -> None:
    """Staging creates missing folders and replaces a file of the same name."""
    for name, body in (("a/b/x.png", "1"), ("a/b/y.png", "2"), ("a/x.png", "3"), ("a/b/x.png", "4")):
        path = tmp_path / "file"
        path.write_text(body)
        await files.stage(name, path)
        assert not path.exists()
        assert (tmp_path / "input" / name).read_text() == body


async def test_an_input_file_is_staged_from_another_file_system(files: FolderFiles, tmp_path: Path) -> None:
    """A file from another file system is copied, and a link of the same name is replaced, not written through."""
    (tmp_path / "input" / "a").mkdir()
    (tmp_path / "input" / "a" / "x").symlink_to(tmp_path / "secret")
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this system has no second file system for all users")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "file"
        path.write_text("1")
        await files.stage("a/x", path)
        assert not path.exists()
    assert (tmp_path / "input" / "a" / "x").read_text() == "1"
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("name", ["link/x", "sub/link/x", "file/x"])
async def test_an_input_file_is_not_staged_through_a_link(files: FolderFiles, tmp_path: Path, name: str) -> None:
    """Staging fails at a link, which a node that still runs could put in place of a folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "input" / "sub").mkdir()
    (tmp_path / "input" / "link").symlink_to(elsewhere)
    (tmp_path / "input" / "sub" / "link").symlink_to(elsewhere)
    (tmp_path / "input" / "file").touch()
    path = tmp_path / "moved"
    path.touch()
    with pytest.raises(StagingFailed):
        await files.stage(name, path)
    assert not list(elsewhere.iterdir())


async def test_a_fetched_output_cannot_be_exchanged(files: FolderFiles, tmp_path: Path) -> None:
    """A fetched output keeps its content if a process of the job replaces the file by a link."""
    (tmp_path / "output" / "a").mkdir()
    output = tmp_path / "output" / "a" / "x.txt"
    output.write_text("an output")
    fetched = await files.fetch(FileRef("x.txt", "a", "output"), files.private_folder())
    output.unlink()
    output.symlink_to(tmp_path / "secret")
    assert fetched.read_text() == "an output"
    await files.clean()
    assert fetched.exists(), "the next job begins while it is uploaded"


def test_private_folders_of_a_killed_worker_are_removed(files: FolderFiles, tmp_path: Path) -> None:
    """Private folders that another process left are removed, and those of this process are kept."""
    own = files.private_folder()
    (own.parent / "of-another" / "x").mkdir(parents=True)
    remove_stale_folders(own.parent)
    assert list(own.parent.iterdir()) == [own]


async def test_an_output_without_hard_links_is_copied_up_to_the_limit(files: FolderFiles, tmp_path: Path) -> None:
    """An output on a file system of its own is copied, and one above the limit is not."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this system has no second file system for all users")
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        (tmp_path / "output").rmdir()
        (tmp_path / "output").symlink_to(folder)
        (Path(folder) / "x.txt").write_text("an output")
        ref, into = FileRef("x.txt", "", "output"), files.private_folder()
        assert (await files.fetch(ref, into, max_bytes=9)).read_text() == "an output"
        with pytest.raises(OutputFailed, match="it has 9 bytes, at most 8 are allowed"):
            await files.fetch(ref, into, max_bytes=8)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of other users")
async def test_a_file_of_another_owner_is_not_an_output(tmp_path: Path) -> None:
    """If the engine has its own user, a file of another user is not an output."""
    folders: dict[str, Any] = {f"{name}_dir": tmp_path / name for name in ("input", "output", "temp")}
    files = FolderFiles(**folders, owner=64_001)
    await files.clean()
    for name, owner in (("own", 64_001), ("other", 0)):
        (tmp_path / "output" / name).write_text(name)
        os.chown(tmp_path / "output" / name, owner, owner)
    assert (await files.fetch(FileRef("own", "", "output"), files.private_folder())).read_text() == "own"
    with pytest.raises(OutputFailed):
        await files.fetch(FileRef("other", "", "output"), files.private_folder())


async def test_deeply_nested_folders_are_emptied(files: FolderFiles, tmp_path: Path) -> None:
    """Folders are emptied even if a job nested thousands of folders."""
    for kind in ("output", "temp"):
        deep = tmp_path / kind
        for _ in range(4):  # a single mkdir call is limited by the length of its path
            deep = deep / "/".join(["a"] * 400)
            deep.mkdir(parents=True)
    await files.clean()
    assert [*(tmp_path / "output").iterdir(), *(tmp_path / "temp").iterdir()] == []
