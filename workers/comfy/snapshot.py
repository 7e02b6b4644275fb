"""`SnapshotHost`: an engine that is started before a memory snapshot of its container and continues after the restore.

If the snapshot includes the GPU's memory, the engine is simply started before. If not, no GPU is present at that time:
a GPU is simulated for the engine (`engine_side/`), which detects the real one after the restore. Any failure leads to a
fresh engine and a warning, so a snapshot only saves time.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from workers.attention import NOT_OURS, SAGE_FLAG, SDPA_FLAG
from workers.attention_memory import has_sage
from workers.comfy.host import HostWrapper, timed
from workers.comfy.http_engine import HttpEngine
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineSpec
from workers.errors import EngineUnavailable, WorkerDiskFull

logger = logging.getLogger(__name__)

PRETEND = {"COMFYUI_MODAL_PRETEND_GPU": "1"}


def pretending(spec: EngineSpec) -> EngineSpec:
    """Return the spec of the engine with a simulated GPU and the attention that it will most likely get."""
    attention = spec.attention
    is_sage_likely = attention is not None and attention.setting != "sdpa" and has_sage(attention.python)
    command = [part for part in spec.command if part != "--cpu"]
    command.append(SAGE_FLAG if is_sage_likely else SDPA_FLAG)  # ComfyUI exits if the flag's package is missing
    return replace(spec, command=command, environment={**spec.environment, **PRETEND}, attention=None)


class SnapshotHost(HostWrapper):
    """An `EngineHost`. `prepare` is called before the snapshot, `start` after the restore.

    `is_on_gpu`: a GPU is present at both times. `spec` is called each time, since it contains --cpu if no GPU is found.
    """

    _host: EngineProcess

    def __init__(self, spec: Callable[[], EngineSpec], *, is_on_gpu: bool) -> None:
        self._spec = spec
        self.is_on_gpu = is_on_gpu
        self._host = EngineProcess(spec())
        self._is_prepared = False
        self._choice = NOT_OURS
        self._phases: dict[str, float] = {}

    @property
    def engine(self) -> HttpEngine:
        return self._host.engine

    @property
    def start_phases(self) -> Mapping[str, float]:
        return self._phases

    async def prepare(self) -> None:
        """Start the engine for the snapshot. If it does not start, `start` starts another one."""
        if not self.is_on_gpu:
            self._host = EngineProcess(pretending(self._spec()))
        try:
            await self._host.start()
            self._is_prepared = True
        except (EngineUnavailable, WorkerDiskFull) as error:
            logger.warning("nothing of the engine is in the snapshot: %s", error)

    async def start(self) -> None:
        self._phases = {}
        if self._is_prepared:
            with timed(self._phases, "restore"):
                goes_on = await self._goes_on()
            if goes_on:
                logger.info("engine restored", extra={"seconds": self._phases["restore"]})
                return
        await self.restart()
        self._phases |= self._host.start_phases

    async def restart(self) -> None:
        await self._host.stop()
        self._host = EngineProcess(self._spec())
        self._host.attention = self._choice  # measured once, for either engine
        await self._host.start()
        self._choice = self._host.attention

    async def _goes_on(self) -> bool:
        try:
            await self._host.engine.command_line()
            return self.is_on_gpu or await self._is_on_a_gpu_now()
        except EngineUnavailable as error:
            logger.warning("the engine of the snapshot cannot go on, a fresh one starts: %s", error)
            return False

    async def _is_on_a_gpu_now(self) -> bool:
        """Whether the restored engine runs on a GPU with the right attention for it."""
        if await self._host.engine.restore() == "cpu":
            raise EngineUnavailable("it sees no GPU")
        spec = self._spec()
        with timed(self._phases, "attention"):
            choice = NOT_OURS if spec.attention is None else await spec.attention.choose(self._host.enclosure)
        self._choice = choice
        # The engine of the snapshot was started with the likely flag, which cannot be changed.
        if choice.flag is not None and choice.flag not in pretending(spec).command:
            raise EngineUnavailable(f"its attention is not {choice.backend}")
        self._host.attention = choice
        return True
