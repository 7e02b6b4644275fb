"""The command line of a worker's ComfyUI, and the folders that only this worker uses."""

import fcntl
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import comfyui_modal
from storage.intake.host_paths import HostPaths
from workers.attention import AttentionSetting, EngineAttention
from workers.comfy.files import PRIVATE, remove_stale_folders
from workers.comfy.flags import default_flags
from workers.disk import writing
from workers.errors import EngineMisconfigured
from workers.isolation import Enclosure, Isolation, IsolationPolicy, Needs
from workers.trees import empty_tree

MAX_UPLOAD_MB = 5 * 1024
"""Value of --max-upload-size, which also limits POST /prompt, whose graph may contain large texts."""

NO_PORT = "--port=65536"
"""An invalid port: a ComfyUI that ignores the UNIX socket exits instead of listening on TCP."""
ENGINE_SIDE = Path(__file__).resolve().parent / "engine_side"
"""Our custom node, installed into every worker's ComfyUI."""

MARKER = ".comfyui-modal-worker"
"""The file that marks a folder as created for a worker."""


@dataclass(frozen=True, slots=True)
class EngineFolders:
    """ComfyUI's writable folders under one parent, so that workers never share them; models are not moved."""

    parent: Path

    @property
    def input(self) -> Path:
        return self.parent / "input"

    @property
    def output(self) -> Path:
        return self.parent / "output"

    @property
    def temp(self) -> Path:
        """ComfyUI appends `temp` to its --temp-directory."""
        return self.parent / "temp"

    @property
    def user(self) -> Path:
        return self.parent / "user"

    @property
    def private(self) -> Path:
        """The worker's folder for files on their way to or from the engine, which must not reach it."""
        return self.parent / PRIVATE

    @property
    def engine_side(self) -> Path:
        """A copy of our custom node, so that the engine can read it wherever our code is installed."""
        return self.parent / "engine-side"

    @property
    def own(self) -> tuple[Path, ...]:
        """The folders that ComfyUI writes to."""
        return (self.input, self.output, self.temp, self.user)

    def absolute(self) -> "EngineFolders":
        """Return the folders with absolute paths, since the engine has another working directory."""
        return EngineFolders(self.parent.absolute())

    def make(self) -> None:
        """Create the folders for a start of the engine, and empty those that it writes to.

        Raises `EngineMisconfigured` for foreign files, `OSError` if a folder cannot be made or emptied.
        """
        self._mark()
        for folder in self.own:
            folder.mkdir(parents=True, exist_ok=True)
            # Jobs empty them too, but a full disk may let no engine start, and so no job: outputs of an engine that
            # died would stay. Of `user` jobs empty a part, since ComfyUI keeps files open in it. The rest, such as
            # scripts that ComfyUI-Manager runs at the next start, must not outlive the engine whose code wrote it.
            empty_tree(folder)
        self.private.mkdir(mode=0o700, exist_ok=True)
        remove_stale_folders(self.private)
        shutil.copytree(
            ENGINE_SIDE,
            self.engine_side,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
            copy_function=_copied,
        )

    def lock(self) -> int:
        """Lock the folders for one worker, and return the descriptor that unlocks them when it is closed.

        Raises `EngineMisconfigured` for foreign files and if another worker has the lock, `OSError` if the file system
        has no locks.
        """
        self._mark()
        lock = os.open(self.parent / MARKER, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise
            raise EngineMisconfigured(
                f"{self.parent} is in use by another worker, and a worker empties its folders: "
                "set COMFYUI_MODAL_ENGINE_DIR to a folder of its own for each"
            ) from None
        return lock

    def _mark(self) -> None:
        marker = self.parent / MARKER
        if not marker.exists() and self.parent.exists() and any(self.parent.iterdir()):
            raise EngineMisconfigured(
                f"{self.parent} holds files that are not this worker's, and a worker empties its folders: "
                "set COMFYUI_MODAL_ENGINE_DIR to a new folder"
            )
        self.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()

    def flags(self) -> list[str]:
        return [
            f"--input-directory={self.input}",
            f"--output-directory={self.output}",
            f"--temp-directory={self.parent}",
            f"--user-directory={self.user}",
        ]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """`command` is complete except for the attention flag, which `attention` chooses if the engine has one.

    `environment` is the whole environment, without our secrets.
    """

    command: Sequence[str]
    cwd: Path
    folders: EngineFolders
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 300.0
    attention: EngineAttention | None = None
    isolation: IsolationPolicy = field(default_factory=IsolationPolicy)
    program: Sequence[Path] = ()
    """Further folders of the engine's program."""

    def code(self) -> list[Path]:
        """Return the paths that the engine must read, including its environment's Python and that one's base."""
        python = Path(self.command[0])
        pythons = [python.parent.parent, python.resolve().parent.parent] if python.is_absolute() else []
        return [self.cwd.absolute(), self.folders.engine_side, *pythons, *self.program]

    def needs(self) -> Needs:
        """Return the access that the engine needs. Its folder, where the lite engine starts, need only be entered."""
        read = [path for path in self.code() if path != self.folders.parent]
        return Needs(read, enter=[self.folders.parent.parent])

    def enclosure(self, isolation: Isolation) -> Enclosure:
        folders = self.folders
        hidden = [*self.isolation.hidden, folders.private]
        return Enclosure(isolation, folders.parent, folders.own, self.code(), hidden)

    def host_paths(self) -> HostPaths:
        """Return the labels of its folders in text that tenants read."""
        folders = self.folders
        own = {folder: folder.name for folder in folders.own}
        return HostPaths({**own, folders.parent: "engine", self.cwd: "ComfyUI", Path(sys.prefix): "python"})

    def with_flags(self, flags: Sequence[str]) -> "EngineSpec":
        """Return a ComfyUI's spec with the operator's flags and those that we add."""
        return replace(self, command=[*self.command, *default_flags(self.cwd, flags), *flags])

    @classmethod
    def comfyui(
        cls,
        directory: Path,
        *,
        python: Path | None,
        folders: EngineFolders,
        cpu: bool | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = 300.0,
        attention: AttentionSetting = "auto",
    ) -> "EngineSpec":
        """Return the spec of a ComfyUI installation.

        `python` None means this worker's interpreter. `cpu` None means --cpu if no accelerator is found, without which
        ComfyUI would not start.
        """
        folders = folders.absolute()
        interpreter = str((python or Path(sys.executable)).absolute())
        command = [
            interpreter,
            "main.py",
            "--listen=127.0.0.1",
            NO_PORT,
            f"--extra-model-paths-config={folders.engine_side / 'paths.yaml'}",
            "--disable-auto-launch",
            "--dont-print-server",
            "--disable-metadata",  # outputs would contain the graph
            f"--max-upload-size={MAX_UPLOAD_MB}",
            # Two ComfyUI servers cannot share the default database.
            f"--database-url=sqlite:///{folders.user / 'comfyui.db'}",
            *folders.flags(),
        ]
        on_cpu = cpu if cpu is not None else not has_accelerator()
        if on_cpu:
            command.append("--cpu")
        choosing = EngineAttention(interpreter, environment or {}, setting=attention, cpu=on_cpu)
        return cls(command, directory, folders, environment or {}, start_timeout_s, choosing)

    @classmethod
    def lite(
        cls,
        *,
        folders: EngineFolders,
        fault_nodes: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> "EngineSpec":
        """Return the spec of the bundled engine."""
        folders = folders.absolute()
        command = comfyui_modal.command("workers.lite", "--disable-metadata", *folders.flags())
        if fault_nodes:
            command.append("--fault-nodes")
        return cls(
            command,
            folders.parent,
            folders,
            environment or {},
            30.0,
            program=[Path(comfyui_modal.ROOT)],
        )


def has_accelerator() -> bool:
    """Whether a GPU's device file exists: NVIDIA's, AMD's, or Windows' through WSL. Macs always have a GPU."""
    devices = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
    return sys.platform == "darwin" or any(device.exists() for device in devices)


def _copied(source: str, target: str) -> None:
    with writing("the engine's folder"):  # here, because `copytree` turns each OSError into one without an errno
        shutil.copy2(source, target)
