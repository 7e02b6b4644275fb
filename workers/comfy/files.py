"""Stages ComfyUI's inputs and fetches its outputs: in its folders, or by HTTP if they are on another machine."""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import anyio.to_thread

from workers.comfy.engine import ANY_SIZE, EngineSilent, FileRef
from workers.comfy.http import AnswerTooLarge, ComfyHttp
from workers.disk import writing
from workers.errors import EngineUnavailable, OutputFailed, StagingFailed
from workers.trees import empty_tree, remove_tree

_TOO_LARGE = "{name!r} is larger than this ComfyUI accepts; start it with a larger --max-upload-size"


_ANNOTATION = re.compile(r" ?\[(output|temp)\]$")
_LIKE_A_FILE = re.compile(r"\A[^\0-\x1f]{0,500}[^\0-\x1f/\\]\.[A-Za-z0-9]{1,10}( ?\[(output|temp)\])?\Z")

USER = "default"
"""ComfyUI's only user. The parent folder also has its database and its log, which it keeps open."""

PRIVATE = "private"
"""The folder with the inputs of the next job, and with hard links of the outputs that are being uploaded."""
_THIS_WORKER = uuid.uuid4().hex
"""Begins the names of this process's private folders; the others are left by a worker that was killed."""

COPY_BYTES = 1024 * 1024


class FolderFiles:
    """ComfyUI's folders on this machine, which only this worker uses.

    `owner` is the engine's user if it is not the worker's; `leftovers` removes a job's files outside these folders.
    Outputs are read in a folder that only the worker can write: in ComfyUI's, a process of the job could replace a
    checked file by a link.
    """

    def __init__(
        self,
        *,
        input_dir: Path,
        output_dir: Path,
        temp_dir: Path,
        user_dir: Path | None = None,
        owner: int | None = None,
        leftovers: Callable[[], None] = lambda: None,
    ) -> None:
        self._folders = {"input": input_dir, "output": output_dir, "temp": temp_dir}
        self._private = output_dir.parent / PRIVATE
        self._emptied = [*self._folders.values(), *([user_dir / USER] if user_dir else [])]
        self._owner = owner
        self._leftovers = leftovers

    async def clean(self) -> None:
        """Empty the folders, so that nothing of a job is left for the next one. ComfyUI keeps using them."""
        # Processes end before the folders are emptied, which they could fill again.
        await anyio.to_thread.run_sync(self._leftovers)
        for folder in self._emptied:
            try:
                await anyio.to_thread.run_sync(_empty, folder)
            except OSError as error:
                raise EngineUnavailable(f"ComfyUI's folder {folder.name!r} cannot be emptied: {error}") from error

    async def stage(self, name: str, path: Path) -> None:
        segments = _segments(name)
        try:
            with writing(f"the input {name!r}"):
                await anyio.to_thread.run_sync(_move_below, self._folders["input"], segments, path, self._owner)
        except OSError as error:
            raise StagingFailed(f"{name!r} cannot be put into ComfyUI's input folder: {error.strerror}") from error

    async def find(self, names: Sequence[str]) -> dict[str, FileRef]:
        return await anyio.to_thread.run_sync(self._found, names)

    def _found(self, names: Sequence[str]) -> dict[str, FileRef]:
        found: dict[str, FileRef] = {}
        for name in names:
            path, kinds = _annotated(name)
            for kind in kinds:
                with contextlib.suppress(OutputFailed):
                    inside = _inside(self._folders[kind], FileRef(path, "", kind)).relative_to(
                        self._folders[kind].resolve()
                    )
                    subfolder = inside.parent.as_posix()
                    found[name] = FileRef(inside.name, "" if subfolder == "." else subfolder, kind)
                    break
        return found

    def private_folder(self) -> Path:
        return new_private_folder(self._private)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._private.parent).free

    async def fetch(self, ref: FileRef, into: Path, *, max_bytes: int = ANY_SIZE) -> Path:
        """Link the file. No name or link that a node reports is followed out of ComfyUI's folders."""
        folder = self._folders.get(ref.type)
        if folder is None:
            raise OutputFailed(f"ComfyUI has no folder called {ref.type!r}")
        return await anyio.to_thread.run_sync(self._taken, folder, ref, into, max_bytes)

    def _taken(self, folder: Path, ref: FileRef, into: Path, max_bytes: int) -> Path:
        path = _inside(folder, ref)
        taken = into / uuid.uuid4().hex
        try:
            with writing(f"the output {ref.filename!r}"):
                _take(folder.resolve(), path.relative_to(folder.resolve()).parts, taken, max_bytes)
            # Checked after the link was made: the name in ComfyUI's folder may belong to another file by now.
            status = taken.lstat()
        except OSError as error:
            raise OutputFailed(f"{ref.filename!r} cannot be read: {error.strerror}") from error
        # A job may have made its output a hard link to a file of another user.
        if not stat.S_ISREG(status.st_mode) or self._owner not in (None, status.st_uid):
            taken.unlink()
            raise OutputFailed(f"{ref.filename!r} is not a file of ComfyUI's own")
        return taken


class RemoteFiles:
    """File access by HTTP, for a ComfyUI on another machine. Its folders are not cleaned."""

    def __init__(self, http: ComfyHttp) -> None:
        self._http = http
        self._scratch = Path(tempfile.mkdtemp(prefix="comfyui-modal-view-"))
        self._began_at: datetime | None = None
        """When this job began, by the server's clock."""

    async def clean(self) -> None:
        self._began_at = await self._http.now()

    async def stage(self, name: str, path: Path) -> None:
        *folders, filename = _segments(name)
        subfolder = "/".join(folders)
        status, answer = await self._upload(filename, subfolder, path)
        if status == 413:
            raise StagingFailed(_TOO_LARGE.format(name=name))
        if status != 200 or _stored_at(answer) != (filename, subfolder):
            raise StagingFailed(f"ComfyUI did not take {name!r} as an input: {status} {str(answer)[:200]}")

    async def _upload(self, name: str, subfolder: str, path: Path) -> tuple[int, Any]:
        """Upload a file. ComfyUI may close the connection before it responds if the file is too large."""
        try:
            return await self._http.upload(name, subfolder, path)
        except EngineSilent:  # a timeout says nothing about the size
            raise
        except EngineUnavailable as error:
            await self._http.get_json("/queue")  # raises if the server is gone
            raise StagingFailed(f"{error.message} ({_TOO_LARGE.format(name=name)}?)") from error
        finally:
            path.unlink(missing_ok=True)

    async def find(self, names: Sequence[str]) -> dict[str, FileRef]:
        """Find files that were written since the job began, by HTTP."""
        found: dict[str, FileRef] = {}
        for name in filter(_LIKE_A_FILE.search, names):  # each name costs requests, so others are not tried
            path, kinds = _annotated(name)
            subfolder, _, filename = path.replace("\\", "/").rpartition("/")
            for kind in kinds:
                # The folders have files of other jobs too, which any text could name.
                changed_at = await self._http.changed_at(filename, subfolder, kind)
                if changed_at is not None and self._began_at is not None and changed_at >= self._began_at:
                    found[name] = FileRef(filename, subfolder, kind)
                    break
        return found

    def private_folder(self) -> Path:
        return new_private_folder(self._scratch)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._scratch).free

    async def fetch(self, ref: FileRef, into: Path, *, max_bytes: int = ANY_SIZE) -> Path:
        path = into / uuid.uuid4().hex
        try:
            with writing(f"the output {ref.filename!r}"):
                status = await self._http.view(ref.filename, ref.subfolder, ref.type, path, max_bytes=max_bytes)
        except AnswerTooLarge as error:
            path.unlink()
            raise OutputFailed(f"{ref.filename!r} has more than the {max_bytes} bytes that are allowed") from error
        except OSError as error:
            raise OutputFailed(f"{ref.filename!r} cannot be kept here: {error.strerror}") from error
        if status != 200:
            raise OutputFailed(f"ComfyUI answered {status} for {ref.filename!r}")
        return path

    def close(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)


def new_private_folder(parent: Path) -> Path:
    """Create a folder of this process that no other user may enter. Raises `WorkerDiskFull`."""
    with writing("a folder"):
        parent.mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{_THIS_WORKER}-", dir=parent))


def remove_stale_folders(parent: Path) -> None:
    """Remove the private folders that other processes left, as a worker that was killed does."""
    for folder in parent.glob("*"):
        if not folder.name.startswith(_THIS_WORKER):
            remove_tree(folder)


def _annotated(name: str) -> tuple[str, Sequence[str]]:
    """Return the path in `3d/x.glb` or `3d/x.glb [temp]`, and the folders that it may be in."""
    match = _ANNOTATION.search(name)
    return (name, ("output", "temp")) if match is None else (name[: match.start()], (match[1],))


def _stored_at(answer: Any) -> tuple[Any, Any] | None:
    return (answer.get("name"), answer.get("subfolder", "")) if isinstance(answer, dict) else None


def _segments(name: str) -> list[str]:
    """Split `pasted/image.png` into its segments, each of which is checked to be a plain name."""
    segments = name.split("/")
    if any(segment in ("", ".", "..") or "\\" in segment or "\0" in segment for segment in segments):
        raise StagingFailed(f"{name!r} is not a plain file name")
    return segments


def _take(root: Path, parts: Sequence[str], taken: Path, max_bytes: int) -> None:
    """Hard-link the file, or copy it if the file system has no hard links."""
    *folders, filename = parts
    parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Segment by segment from an open folder, so that no link that appears meanwhile is followed.
        for folder in folders:
            outer, parent = parent, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(outer)
        try:
            os.link(filename, taken, src_dir_fd=parent, follow_symlinks=False)
        except OSError:
            # Without O_NONBLOCK the open of a FIFO would wait for its writer.
            descriptor = os.open(filename, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
            with os.fdopen(descriptor, "rb") as source:
                _copy_of_file(source, taken, max_bytes)
    finally:
        os.close(parent)


def _copy_of_file(source: BinaryIO, taken: Path, max_bytes: int) -> None:
    """Copy the bytes that the file has now: copying to the end of a file that grows would have no end."""
    status = os.fstat(source.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a file")
    if status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, at most {max_bytes} are allowed")
    left = status.st_size
    with taken.open("xb") as target:
        while left and (piece := source.read(min(COPY_BYTES, left))):
            target.write(piece)
            left -= len(piece)
    if os.geteuid() == 0:
        # The copy keeps the owner, which is checked afterwards.
        os.chown(taken, status.st_uid, status.st_gid)


def _move_below(root: Path, segments: list[str], path: Path, owner: int | None = None) -> None:
    """Move a file below a folder, whose links are not followed."""
    if owner is not None:
        # Before the move: after it the other user could replace the file by a link.
        os.chown(path, owner, owner)
    *folders, filename = segments
    parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Segment by segment, so that no link that a node has made is followed.
        for folder in folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o755, dir_fd=parent)
            outer, parent = parent, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(outer)
        _move_into(parent, filename, path, owner)
    finally:
        os.close(parent)


def _move_into(parent: int, filename: str, path: Path, owner: int | None) -> None:
    """Move a file into an open folder; copy it if it is on another file system."""
    try:
        os.replace(path, filename, dst_dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with contextlib.suppress(FileNotFoundError):
            # Removed first: a link that a node made under this name must be replaced and not followed.
            os.unlink(filename, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with path.open("rb") as source, os.fdopen(os.open(filename, flags, 0o666, dir_fd=parent), "wb") as target:
            shutil.copyfileobj(source, target)
            if owner is not None:
                os.fchown(target.fileno(), owner, owner)
        path.unlink()


def _inside(folder: Path, ref: FileRef) -> Path:
    try:
        root = folder.resolve()
        path = (root / ref.subfolder / ref.filename).resolve()
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL character, a cycle of links
        raise OutputFailed(f"{ref.filename[:100]!r} is not a name that a file can have") from error
    if not path.is_relative_to(root):
        raise OutputFailed(f"{ref.filename!r} lies outside ComfyUI's {ref.type} folder")
    if not is_file:
        raise OutputFailed(f"{ref.filename!r} is not in ComfyUI's {ref.type} folder")
    return path


def _empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    empty_tree(folder)
