"""The embedded S3 server: SeaweedFS from its PyPI wheel, one process, data in one folder.

The S3 port requires credentials. All other ports require a client certificate that only the server itself has.
Acknowledged writes survive a kill but not a power loss, because the server does not fsync.
After a restart the server listens on its previous S3 port, if that is free.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from infra.local.host import LOOPBACK, reached_at
from infra.local.server_identity import ServerIdentity
from storage import keys
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.errors import StorageError
from workers.supervise import guarded, kill_group


def is_free(port: int, host: str) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this option too, with which connections in TIME_WAIT do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a free port of the loopback interface. Another process may take it before it is used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 30.0
POLL_S = 0.1
PROBE_TIMEOUT_S = 2.0
"""Read timeout of a probe. A write sent during the start may hang for 20 s, while the next one is fast."""
STOP_GRACE_S = 3.0
"""Time from SIGTERM to SIGKILL. The server stops within 2.5 s unless a TLS connection never sent a request."""
PORT_POLLS = 20
"""How often the ports are tested, every POLL_S, before they count as taken."""
START_ATTEMPTS = 4
MAX_PORT = 65_535
ADMIN_GRPC_OFFSET = 10_000
"""The admin server's gRPC port is its HTTP port plus this offset. It must be free too."""

_PORT_FLAGS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
_FIXED_FLAGS = (
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-webdav=false",
    "-admin.ui=false",
    "-master.telemetry=false",
    # The master learns its state from its one volume server. With a resumed state it may refuse writes for 15 s.
    "-master.resumeState=false",
    # An unfinished PUT holds 4 MB of the server's memory. A silent client keeps it for twice this time.
    "-s3.idleTimeout=20",
    "-s3.autoCreateBucket=false",
    "-s3.allowDeleteBucketNotEmpty=false",
    "-master.volumeSizeLimitMB=256",
    "-volume.max=1000",
    "-master.vacuumIntervalSeconds=60",
)


class S3ServerFailed(Exception):
    """The server did not become ready. The message names its log."""


@dataclass(frozen=True, slots=True)
class _Ports:
    by_flag: Mapping[str, int]
    admin: int

    @classmethod
    def choose(cls, host: str, s3: int, kept: int | None = None) -> "_Ports":
        """Choose free ports. The S3 port is `s3`, or `kept` if `s3` is 0 and that one is free."""
        chosen: set[int] = set()
        while len(chosen) < len(_PORT_FLAGS):
            chosen.add(free_port())
            chosen.discard(s3)
        admin = free_port()
        while (
            admin in (*chosen, s3)
            or admin + ADMIN_GRPC_OFFSET > MAX_PORT
            or not is_free(admin + ADMIN_GRPC_OFFSET, host)
        ):
            admin = free_port()
        by_flag = dict(zip(_PORT_FLAGS, chosen, strict=True))
        if s3:
            by_flag["s3.port"] = s3
        # Presigned URLs of before a restart contain this port.
        elif kept is not None and kept not in (*chosen, admin, admin + ADMIN_GRPC_OFFSET) and is_free(kept, host):
            by_flag["s3.port"] = kept
        return cls(by_flag, admin)

    @property
    def s3(self) -> int:
        return self.by_flag["s3.port"]

    @property
    def all(self) -> frozenset[int]:
        return frozenset((*self.by_flag.values(), self.admin, self.admin + ADMIN_GRPC_OFFSET))

    def flags(self) -> list[str]:
        return [*(f"-{flag}={port}" for flag, port in self.by_flag.items()), f"-admin.port={self.admin}"]


class LocalS3Server:
    """The server's process. `start` may be called again after it died, and keeps its ports."""

    def __init__(
        self,
        *,
        data_dir: Path,
        bucket: str,
        access_key: str,
        secret_key: str,
        host: str = LOOPBACK,
        port: int = 0,
    ) -> None:
        """`host` is the address to listen on. Port 0 keeps the S3 port of the last start if it is free."""
        self._host = host
        self._port = port
        self._data_dir = data_dir
        self._bucket = bucket
        self._access_key = access_key
        self._secret_key = secret_key
        self._port_file = data_dir / "s3.port"
        self._log = data_dir / "log" / "weed.out"
        self._ports = _Ports.choose(host, port, self._kept_port())
        self._identity = ServerIdentity(data_dir / "tls", reached_at(host))
        self._process: asyncio.subprocess.Process | None = None
        self._last_error: StorageError | None = None
        self._jwt = {
            name: secrets.token_urlsafe(24)
            for name in ("WEED_JWT_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY")
        }

    @property
    def endpoint_url(self) -> str:
        return f"http://{reached_at(self._host)}:{self._ports.s3}"

    @property
    def ports(self) -> frozenset[int]:
        """Every TCP port that the server may listen on. Constant after the first `start` has returned."""
        return self._ports.all

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.is_alive() else None

    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def config(self) -> S3Config:
        return S3Config(
            bucket=self._bucket,
            endpoint_url=self.endpoint_url,
            access_key=self._access_key,
            secret_key=self._secret_key,
        )

    async def start(self) -> None:
        """Start the server and wait until a PutObject succeeds. Raise `S3ServerFailed` after several attempts."""
        first_start = self._process is None
        if self._process is not None:
            kill_group(self._process.pid)  # the supervising process may have been killed without the server
        for _ in range(START_ATTEMPTS):
            # SeaweedFS silently chooses another gRPC port if one is taken, and `ports` would then be wrong.
            if await self._ports_are_free():
                await self._spawn()
                if await self._wait_ready():
                    self._port_file.write_text(f"{self._ports.s3}\n")
                    return
                await self.stop()
            # Another program may have taken a port meanwhile. Later starts keep theirs: `refused_ports` names them.
            if first_start:
                self._ports = _Ports.choose(self._host, self._port)
        reason = self._last_error or f"another program has one of its ports, such as {self._ports.s3}"
        raise S3ServerFailed(f"the S3 server did not get ready ({reason}); see {self._log}")

    async def stop(self) -> None:
        """Send SIGTERM, then SIGKILL. Acknowledged writes survive both."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await self._process.wait()
        except TimeoutError:
            logger.info("the S3 server did not stop within %.0f s: killed", STOP_GRACE_S)
        kill_group(self._process.pid)
        await self._process.wait()

    def _kept_port(self) -> int | None:
        try:
            kept = self._port_file.read_text()
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            kept = ""
        with contextlib.suppress(ValueError):
            if 1 <= int(kept) <= MAX_PORT:
                return int(kept)
        logger.warning(
            "%s is damaged: it names no port from 1 to %d. Another port is chosen, and presigned URLs of before do not "
            "work; --s3-port sets the port",
            self._port_file,
            MAX_PORT,
        )
        return None

    async def _ports_are_free(self) -> bool:
        """Wait until all ports are free. A server that was just killed may need a moment to close them."""
        for _ in range(PORT_POLLS):
            if all(is_free(port, self._host) for port in self._ports.all):
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _spawn(self) -> None:
        self._identity.renew()
        (self._data_dir / "data").mkdir(parents=True, exist_ok=True)
        self._data_dir.chmod(0o700)
        self._log.parent.mkdir(exist_ok=True)
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd=self._data_dir,
                start_new_session=True,
                umask=0o077,  # its UNIX sockets lie in the system's temp folder
            )

    def _command(self) -> list[str]:
        addresses = (f"-ip={reached_at(self._host)}", f"-ip.bind={self._host}")  # the default is every interface
        own = [
            f"-dir={self._data_dir / 'data'}",
            f"-bucket={self._bucket}",
            *addresses,
            *_FIXED_FLAGS,
            *self._ports.flags(),
        ]
        weed = Path(sys.executable).parent / "weed"
        # Without this flag it keeps five log files a level and does not append to them: `log_files` could not cut them.
        return guarded([str(weed), "-logtostderr", "mini", *own])

    def _environment(self) -> dict[str, str]:
        """Return the server's whole environment, which holds its credentials."""
        # Every user of the machine can read a command line, but not another user's environment.
        return {
            "AWS_ACCESS_KEY_ID": self._access_key,
            "AWS_SECRET_ACCESS_KEY": self._secret_key,
            "HOME": str(self._data_dir),
            "PATH": os.environ.get("PATH", ""),
            # With these two limits of Go's collector, transfers of 1 GB take at most about 1 GB of memory.
            "GOMEMLIMIT": "512MiB",
            "GOGC": "50",
            **self._jwt,
            **self._identity.environment(),
        }

    async def _wait_ready(self) -> bool:
        # An open port is not enough: a write may fail or hang while the server is still starting.
        objects = S3ObjectStore(replace(self.config(), attempts=1, read_timeout_s=PROBE_TIMEOUT_S))
        key = keys.probe("start")
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while self.is_alive():
                    try:
                        await objects.put(key, b"ready", content_type="text/plain")
                        await objects.delete(key)
                    except StorageError as error:
                        self._last_error = error
                        await asyncio.sleep(POLL_S)
                    else:
                        return True
        except TimeoutError:
            logger.warning("the S3 server was not ready within %.0f s", READY_TIMEOUT_S)
        finally:
            await objects.close()
        return False
