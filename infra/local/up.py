"""The command `comfyui-modal up`: supervises the S3 server, the API and the workers until Ctrl-C.

The data folder holds everything that must outlive a restart:

    credentials.json   keys that the first start generated (mode 0600)
    s3/                the S3 server's data
    connection.json    how to reach the running processes (mode 0600); removed at the end
    engines/<worker>/  input, output, temp and user folders of each worker's ComfyUI
    logs/<process>.log and the older part of a long one, <process>.log.1

The listening socket belongs to this process and is inherited by the API: while the API restarts,
connections wait in the socket's backlog and none is refused.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from infra.compose.values import bucket_disk, loopback_of_up
from infra.local.children import Child, ChildSpec, Readiness, readiness_of
from infra.local.connection import Connection, Credentials
from infra.local.data_folder import UpRefused, embedded_bucket, locked
from infra.local.ended_jobs import report_ended_jobs
from infra.local.host import LOOPBACK, listening, reached_at
from infra.local.log_files import keep_bounded
from infra.local.s3_server import LocalS3Server
from infra.local.s3_supervisor import supervised
from infra.settings import EngineSettings, Settings
from storage.concurrency import in_background

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""Time for the API and the workers to stop. The S3 server stops after them and needs another 2.5 s."""
WATCH_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The arguments of `up`. Port 0 chooses a free port; `external` None selects the embedded S3 server.

    `host` is the address of the API and of the embedded S3 server. `s3_port` 0 keeps the S3 port of the last start.
    """

    port: int
    data: Path
    workers: int
    engine: EngineSettings
    external: Settings | None = None
    lite_fault_nodes: bool = False
    host: str = LOOPBACK
    s3_port: int = 0


class LocalRuntime:
    """The processes of one `up`. `connection()` is complete as soon as `ready` is true."""

    def __init__(
        self,
        options: UpOptions,
        settings: Settings,
        listener: socket.socket,
        run_dir: Path,
        server: LocalS3Server | None,
    ) -> None:
        self._options = options
        self._settings = settings
        self._run_dir = run_dir
        self._written: Connection | None = None
        self._server = server
        self.api_url = f"http://{reached_at(options.host)}:{listener.getsockname()[1]}"
        workers = [self._child(f"worker-{n + 1}", "infra.local.processes", "worker") for n in range(options.workers)]
        self.children = [
            self._child("api", "infra.local.api_process", "--fd", str(listener.fileno()), fds=(listener.fileno(),)),
            self._child("reaper", "infra.local.processes", "reaper"),
            self._child("deliverer", "infra.local.processes", "deliverer"),
            *workers,
        ]

    @property
    def ready(self) -> bool:
        return all(self._readiness(child) for child in self.children)

    def start(self) -> None:
        for child in self.children:
            child.start()

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop(GRACE_S) for child in self.children))

    def connection(self) -> Connection:
        settings = self._settings
        processes = {"up": os.getpid()}
        if self._server is not None and self._server.pid is not None:
            processes["s3"] = self._server.pid
        urls: dict[str, str] = {}
        for child in self.children:
            if child.pid is not None:
                processes[child.spec.name] = child.pid
            readiness = self._readiness(child)
            if readiness and readiness.engine_url:
                urls[child.spec.name] = readiness.engine_url
            if readiness and readiness.engine_pid:
                processes[child.spec.name.replace("worker", "engine")] = readiness.engine_pid
        return Connection(
            api_url=self.api_url,
            api_key=_clear(settings.api_key) or "",
            s3_endpoint=settings.s3_endpoint,
            bucket=settings.bucket,
            region=settings.s3_region,
            prefix=settings.s3_prefix,
            access_key=_clear(settings.s3_access_key),
            secret_key=_clear(settings.s3_secret_key),
            webhook_secret=_clear(settings.webhook_secret),
            comfyui_url=next(iter(urls.values()), None),
            comfyui_urls=urls,
            processes=processes,
        )

    def write_connection(self) -> None:
        """Rewrite connection.json if its content changed."""
        connection = self.connection()
        if connection != self._written:
            # On a full disk `_written` keeps its old value, so the next pass of `_watch` tries again.
            with contextlib.suppress(OSError):
                connection.write(self._options.data)
                self._written = connection

    def _readiness(self, child: Child) -> Readiness | None:
        return readiness_of(self._run_dir / f"{child.spec.name}.json", child.pid)

    def _child(self, name: str, module: str, *arguments: str, fds: Sequence[int] = ()) -> Child:
        data = self._options.data
        own = self._settings.model_copy(
            update={
                "process_name": name,
                "readiness_file": self._run_dir / f"{name}.json",
                "signal_dir": self._run_dir,
                "public_url": self._settings.public_url or self.api_url,
                "engine_dir": data / "engines" / name,
                "private_dirs": (*self._settings.private_dirs, str(data.absolute()), str(self._run_dir)),
            }
        )
        # Settings travel as variables, not as arguments, which every user of the machine can read.
        spec = ChildSpec(
            name=name,
            module=module,
            arguments=arguments,
            environment=_inherited_environment() | own.environment(),
            log=data / "logs" / f"{name}.log",
            pass_fds=fds,
        )
        return Child(spec)


async def serve(
    options: UpOptions, stop: asyncio.Event, on_ready: Callable[[Connection], None], write: Callable[[str], bool]
) -> None:
    """Run until `stop` is set. Call `on_ready` once, when the API and every worker are ready.

    `write` gets a line for each job that has ended, and returns False if it cannot be read at the moment.
    """
    if options.workers > 1 and options.engine.comfyui_url:
        raise UpRefused("one running ComfyUI serves one worker: drop --workers, or give --engine a folder")
    _check_engine(options.engine)
    with locked(options.data), listening(options.host, options.port) as listener, _run_folder() as run_dir:
        credentials = Credentials.of(options.data)
        # The S3 server must outlive the other processes: a worker that stops releases its job in the bucket.
        async with (
            in_background(report_ended_jobs(options.data / "logs", write)),
            in_background(keep_bounded((options.data / "logs", options.data / "s3" / "log"))),
            _bucket(options, credentials) as (settings, server),
            supervised(server, bucket_disk(settings)),
        ):
            ruled = _with_receiver_rules(settings, listener, server)
            runtime = LocalRuntime(options, ruled, listener, run_dir, server)
            runtime.start()
            try:
                await _watch(runtime, stop, on_ready)
            finally:
                await runtime.stop()
                (options.data / "connection.json").unlink(missing_ok=True)


async def _watch(runtime: LocalRuntime, stop: asyncio.Event, on_ready: Callable[[Connection], None]) -> None:
    """Keep connection.json current until `stop` is set. Raise `UpRefused` if a child cannot start."""
    announced = False
    while not stop.is_set():
        # Readiness is announced once: a child that restarts later only changes connection.json.
        is_ready = announced or runtime.ready
        if is_ready:
            runtime.write_connection()
        for child in runtime.children:
            if child.refused is not None:
                raise UpRefused(f"{child.spec.name}: {child.refused}")
        if is_ready and not announced:
            announced = True
            on_ready(runtime.connection())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_INTERVAL_S):
                await stop.wait()


@contextlib.asynccontextmanager
async def _bucket(options: UpOptions, credentials: Credentials) -> AsyncIterator[tuple[Settings, LocalS3Server | None]]:
    """Yield the settings of every process, and the embedded S3 server unless an external bucket is set."""
    common = {
        "api_key": SecretStr(credentials.api_key),
        "engine": options.engine.engine,
        "comfyui_python": options.engine.comfyui_python,
        "lite_fault_nodes": options.lite_fault_nodes,
        "webhook_secret": SecretStr(credentials.webhook_secret),
    }
    if options.external is not None:
        # Keys that the operator has set win over those that this data folder generated.
        kept = {
            "api_key": options.external.api_key or common["api_key"],
            "webhook_secret": options.external.webhook_secret or common["webhook_secret"],
        }
        yield options.external.model_copy(update=common | kept), None
        return
    async with embedded_bucket(options.data, credentials, options.host, options.s3_port) as (settings, server):
        yield settings.model_copy(update=common | {"bucket_dir": options.data / "s3"}), server


def _with_receiver_rules(settings: Settings, listener: socket.socket, server: LocalS3Server | None) -> Settings:
    """Refuse webhooks and fetches to this deployment's own ports, and set the rule for other loopback receivers."""
    own = {listener.getsockname()[1], *(() if server is None else server.ports)}
    if taken := own.intersection(settings.fetch_loopback_ports):
        raise UpRefused(
            f"COMFYUI_MODAL_FETCH_LOOPBACK_PORTS lists port {min(taken)}, on which `up` itself listens\n"
            "  → leave it out: no URL of a client reaches our own processes"
        )
    refused = tuple(sorted(own.union(settings.refused_ports)))
    return settings.model_copy(update={"refused_ports": refused, "webhook_loopback": loopback_of_up(settings)})


def _check_engine(engine: EngineSettings) -> None:
    """Raise `UpRefused` for a ComfyUI folder or Python that does not exist."""
    # Without this check the workers would crash and be restarted for ever.
    if engine.comfyui_url or engine.comfyui_dir is None:
        return
    if not (engine.comfyui_dir / "main.py").is_file():
        raise UpRefused(
            f"{engine.comfyui_dir} is not a ComfyUI: it has no main.py\n"
            "  → set COMFYUI_DIR, or --engine, to the folder of a ComfyUI; --engine lite needs none"
        )
    if engine.comfyui_python is not None and shutil.which(engine.comfyui_python) is None:
        raise UpRefused(f"{engine.comfyui_python} is not a Python: set COMFYUI_PYTHON to the one of your ComfyUI")


@contextlib.contextmanager
def _run_folder() -> Iterator[Path]:
    """Make the folder of sockets and readiness files, and remove it at the end."""
    # Not below the data folder: the path of a UNIX socket has at most 104 bytes on macOS.
    folder = Path(tempfile.mkdtemp(prefix="comfyui-modal-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _inherited_environment() -> dict[str, str]:
    """Return the variables that a child inherits. Its settings are added as variables of their own."""
    # An allow-list, so that credentials in the shell of `up` do not reach a child by accident.
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "COVERAGE_PROCESS_CONFIG")
    prefixed = ("CUDA_", "NVIDIA_", "HF_", "AWS_")  # AWS_: an external bucket may have no keys in the settings
    wanted = {name: value for name, value in os.environ.items() if name in kept or name.startswith(prefixed)}
    return wanted | {"PATH": f"{Path(sys.executable).parent}:{wanted.get('PATH', '')}"}


def _clear(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
