"""`EngineProcess`: a ComfyUI or lite engine that the worker starts, isolates, restarts and stops."""

import asyncio
import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.pools.worker_facts import AttentionChoice
from workers.attention import NOT_OURS, EngineAttention
from workers.comfy.files import FolderFiles
from workers.comfy.host import LOG_LINES, EngineLog, timed
from workers.comfy.http import UNIX
from workers.comfy.http_engine import HttpEngine
from workers.comfy.leftovers import Leftovers, end_processes_of, remove_shared_objects_of
from workers.comfy.spec import EngineSpec
from workers.disk import writing
from workers.errors import EngineMisconfigured, EngineUnavailable, WorkerDiskFull
from workers.isolation import EngineUser, Isolation, choose
from workers.supervise import NOT_STARTED, SOCKET_VARIABLE, guarded, kill_group, kill_strays
from workers.trees import remove_tree

logger = logging.getLogger(__name__)

NOT_STARTED_YET = Isolation(reason="the engine was not started yet")
LONGEST_LINE = 4000
READY_POLL_S = 0.1
STOP_GRACE_S = 3.0
LAST_WORDS_S = 1.0
_WRONG_PATH = (FileNotFoundError, NotADirectoryError, PermissionError)
SOCKET_REFUSED = "port must be 0-65535"
"""The error with which a ComfyUI exits that tries to listen on the invalid port `spec.NO_PORT`."""


class EngineProcess:
    """A ComfyUI process of this worker. It ends with the worker, even by kill -9.

    It listens on a UNIX socket in a folder that is created for each start and that only the engine's user may enter. No
    other user, web page or webhook can reach the engine.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self.log = EngineLog(LOG_LINES)
        self.paths = spec.host_paths()
        self.attention = NOT_OURS
        self.start_phases: dict[str, float] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._engine: HttpEngine | None = None
        self._socket_dir: Path | None = None
        self._user = EngineUser(spec.isolation.first_user)
        self._folder_lock: int | None = None
        self._leftovers: Leftovers | None = None
        self.enclosure = spec.enclosure(NOT_STARTED_YET)

    @property
    def isolation(self) -> Isolation:
        return self.enclosure.isolation

    @property
    def engine(self) -> HttpEngine:
        if self._engine is None:
            raise EngineUnavailable("the engine was not started")
        return self._engine

    @property
    def url(self) -> str:
        return self.engine.url

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.is_alive() else None

    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        self.start_phases.clear()
        attention = self._spec.attention
        if attention is not None and self.attention is NOT_OURS:  # chosen once, since a restart has the same GPU
            with timed(self.start_phases, "attention"):
                known = await attention.known()
            if known is None:
                await self._start_while_trying(attention)
                return
            self.attention = known
        await self._enclose()
        await self._launch(self.attention.flag)

    async def _start_while_trying(self, attention: EngineAttention) -> None:
        """Start the engine with the likely attention while the probe measures it; restart it if the guess was wrong."""
        guess = await attention.likely_flag()
        await self._enclose()
        # At the same time, because both load torch, which takes most of their time.
        trying = asyncio.create_task(self._tried(attention))
        try:
            failure = await self._failure_to_launch(guess)
            self.attention = await trying
        finally:
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
        if self.attention.flag != guess:
            logger.info("the engine starts anew, with the right attention", extra={"attention": self.attention.backend})
            await self.stop()
            await self._enclose()
            await self._launch(self.attention.flag)
        elif failure is not None:
            raise failure

    async def _tried(self, attention: EngineAttention) -> AttentionChoice:
        with timed(self.start_phases, "attention"):
            return await attention.tried(self.enclosure)

    async def _failure_to_launch(self, attention_flag: str) -> EngineUnavailable | None:
        try:
            await self._launch(attention_flag)
        except EngineUnavailable as error:  # the guessed attention may be the cause
            return error
        return None

    async def _launch(self, attention_flag: str | None) -> None:
        with timed(self.start_phases, "engine"):
            await self._launched([] if attention_flag is None else [attention_flag])
        logger.info("engine ready", extra={"seconds": self.start_phases["engine"]})

    async def _launched(self, flags: Sequence[str]) -> None:
        with self._cannot_be_started():
            socket = self._new_socket()
            self._process = await self._spawn([*self._spec.command, *flags], socket)
        self._reader = asyncio.create_task(self._read_log(self._process))
        folders = self._spec.folders
        files = FolderFiles(
            input_dir=folders.input,
            output_dir=folders.output,
            temp_dir=folders.temp,
            user_dir=folders.user,
            owner=self.isolation.user,
            leftovers=self._remove_leftovers,
        )
        self._engine = HttpEngine(f"{UNIX}{socket}", files)
        await self._wait_ready(self._engine)
        new_ones_go = [self.enclosure.scratch, folders.user] if self.isolation.is_in_force else [folders.user]
        self._leftovers = Leftovers(guard=self._process.pid, user=self.isolation.user, folders=new_ones_go)

    async def _enclose(self) -> None:
        """Choose the isolation for this start."""
        with self._cannot_be_started():
            if self._folder_lock is None:
                self._folder_lock = self._spec.folders.lock()
            self._spec.folders.make()
            # At every start, because another worker may have taken the user number meanwhile.
            isolation = await choose(self._spec.isolation, self._user, self._spec.needs())
            self.enclosure = self._spec.enclosure(isolation)
            if isolation.user is not None:
                await asyncio.to_thread(end_processes_of, isolation.user)
                await asyncio.to_thread(remove_shared_objects_of, isolation.user)
            self.enclosure.make()

    @contextlib.contextmanager
    def _cannot_be_started(self) -> Iterator[None]:
        """Translate the system's errors to `EngineUnavailable`, and that of a full disk to `WorkerDiskFull`."""
        try:
            with writing("the engine's folder"):
                yield
        except (OSError, WorkerDiskFull) as error:
            self._remove_socket()
            self._unlock()
            if isinstance(error, WorkerDiskFull):
                raise  # it says nothing of the engine
            kind = EngineMisconfigured if isinstance(error, _WRONG_PATH) else EngineUnavailable
            raise kind(f"the engine cannot be started: {error}") from error

    def _remove_leftovers(self) -> None:
        if self._leftovers is not None and self.is_alive() and not self._leftovers.remove():
            raise EngineUnavailable("processes of an earlier job could not be ended: the engine is restarted")

    def _new_socket(self) -> Path:
        """Return a new socket path."""
        self._remove_socket()
        # In the system's folder, because a socket's path has at most 104 bytes. Its name cannot be guessed: with
        # Landlock alone, another worker's engine could connect to a known path.
        self._socket_dir = Path(tempfile.gettempdir()) / f"comfyui-modal-{secrets.token_urlsafe(12)}"
        self._socket_dir.mkdir(mode=0o700)
        self.enclosure.give(self._socket_dir)
        return self._socket_dir / "engine"

    def _remove_socket(self) -> None:
        if self._socket_dir is not None:
            with contextlib.suppress(OSError):
                remove_tree(self._socket_dir)
            self._socket_dir = None

    async def _spawn(self, command: list[str], socket: Path) -> asyncio.subprocess.Process:
        environment = self.enclosure.environment(self._spec.environment)
        return await asyncio.create_subprocess_exec(
            *guarded(self.enclosure.command(command, environment, socket.parent)),
            cwd=self._spec.cwd,
            env={**environment, SOCKET_VARIABLE: str(socket)},
            # The guard ends the engine when this pipe ends, that is, when this process does.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=LONGEST_LINE * 16,
        )

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.close()
            self._engine = None
        self._remove_socket()
        self._leftovers = None
        process, self._process = self._process, None
        if process is None:
            self._unlock()
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            logger.warning("the engine did not stop within %.0f s: killed", STOP_GRACE_S)
            await asyncio.to_thread(kill_strays, process.pid)
        # Also after a normal end: the group may outlive its leader, and the next engine may get its user.
        kill_group(process.pid)
        await process.wait()
        self._unlock()
        if self._reader is not None:  # a grandchild in another session may keep the pipe open
            await asyncio.wait({self._reader}, timeout=LAST_WORDS_S)
            self._reader.cancel()

    def _unlock(self) -> None:
        """Leave the user number and the folders to others."""
        self._user.release()
        if self._folder_lock is not None:
            os.close(self._folder_lock)
            self._folder_lock = None

    async def _wait_ready(self, engine: HttpEngine) -> None:
        try:
            async with asyncio.timeout(self._spec.start_timeout_s):
                while self.is_alive():
                    with contextlib.suppress(EngineUnavailable):
                        await engine.object_info()
                        return
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            failure = f"the engine was not ready within {self._spec.start_timeout_s:.0f} s"
        else:
            failure = "the engine ended while it was starting"
        code = None if self._process is None else self._process.returncode
        await self.stop()
        words = self.log.tail(20)
        if any(SOCKET_REFUSED in line for line in words):
            failure = (
                "the engine did not load our custom node, by which it listens on a socket: is it told to load none?"
            )
            code = NOT_STARTED
        kind = EngineMisconfigured if code == NOT_STARTED or _misses_module(words) else EngineUnavailable
        raise kind("\n".join([failure, *words]))

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line longer than the limit, such as a progress bar
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip().rpartition("\r")[2][:LONGEST_LINE]  # a bar's last state
            self.log.append(text)
            logger.debug("engine: %s", text)


def _misses_module(words: Sequence[str]) -> bool:
    """Whether an engine's last output is Python's error for a missing package."""
    return bool(words) and words[-1].startswith(("ModuleNotFoundError:", "ImportError:"))
