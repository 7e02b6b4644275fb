"""Chooses ComfyUI's attention: SageAttention if it was measured as correct and faster on this GPU, else torch's.

ComfyUI trusts the flag: with kernels built for another GPU it produces noise, or no image at all. So a probe
(`workers.attention_probe`) runs both on this GPU, in a separate process with the engine's Python, while the engine
starts with the likely one. A crash, a hang or an invalid result of the probe selects torch's attention, which is
logged. The result is stored for the next start on such a GPU (`workers.attention_memory`).
"""

import asyncio
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.pools.worker_facts import AttentionChoice
from workers import attention_probe
from workers.attention_memory import AttentionMemory, SeenGpu, has_sage, seen_gpu
from workers.isolation import Enclosure
from workers.supervise import guarded, kill_group

logger = logging.getLogger(__name__)

AttentionSetting = Literal["auto", "sage", "sdpa"]
"""`sage` uses SageAttention even if it is slower, but never if it is wrong."""

SAGE_FLAG = "--use-sage-attention"
SDPA_FLAG = "--use-pytorch-cross-attention"

LEAST_COSINE = 0.99
"""Between SageAttention's output and torch's on the probe's normal random input.

int8 for query and key, and fp8 for the probabilities and the value, give 0.9992 in exact arithmetic: their rounding
errors of about 1/254 and 1/32 of a value average out over a row of thousands. A kernel for another architecture, or one
that reads the wrong layout, stays below 0.5. 0.99 leaves ten times the error of correct kernels as room.
"""
TIME_LIMIT_S = 180.0
"""Seconds for the probe, including the load of torch in a cold container and SageAttention 1's compilation."""

NOT_OURS = AttentionChoice(backend=None, reason="not ours to choose")


class Measured(BaseModel):
    """The result of the probe. `failure` says how it ended if it failed."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True)

    torch: str | None = None
    torch_error: str | None = None
    cuda: bool = False
    gpu: str | None = None
    memory_bytes: int | None = None
    capability: tuple[int, int] | None = None
    sageattention: str | None = None
    sage_error: str | None = None
    finite: bool | None = None
    cosine: float | None = None
    sage_ms: float | None = None
    sdpa_ms: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class EngineAttention:
    """`python` and `environment` are the engine's."""

    python: str
    environment: Mapping[str, str]
    setting: AttentionSetting = "auto"
    cpu: bool = False
    time_limit_s: float = TIME_LIMIT_S
    memory: AttentionMemory | None = None
    _gpus: dict[str, SeenGpu | None] = field(default_factory=dict, compare=False)
    """The driver's answer, cached."""

    async def choose(self, enclosure: Enclosure | None = None) -> AttentionChoice:
        """Return the choice and log it. Never raises. The probe is confined like the engine."""
        return await self.known() or await self.tried(enclosure)

    async def known(self) -> AttentionChoice | None:
        """Return the choice if it needs no measurement, else None."""
        if self.cpu:
            return _logged(_sdpa("ComfyUI runs on the CPU"))
        if self.setting == "sdpa":
            return _logged(_sdpa("the setting asks for it"))
        if self.memory is None or (gpu := await self._gpu()) is None:
            return None
        remembered = await self.memory.recall(gpu, self.setting)
        return None if remembered is None else _logged(remembered, is_fallback=True)

    async def likely_flag(self) -> str:
        """Return the flag of the choice that a measurement will most likely lead to."""
        gpu = await self._gpu()
        is_new = gpu is None or gpu.capability >= attention_probe.OLDEST
        return SAGE_FLAG if self.setting != "sdpa" and is_new and has_sage(self.python) else SDPA_FLAG

    async def tried(self, enclosure: Enclosure | None = None) -> AttentionChoice:
        measured = await probe(self.python, self.environment, time_limit_s=self.time_limit_s, enclosure=enclosure)
        # Without a GPU torch's attention is the expected choice, so it is no reason for a warning.
        choice = _logged(decide(measured, self.setting), is_fallback=measured.cuda or measured.torch is None)
        # Only measurements are stored: a crash, a hang or an error may not recur.
        is_sure = measured.cuda and measured.failure is None and measured.sage_error is None
        if is_sure and self.memory is not None and (gpu := await self._gpu()) is not None:
            await self.memory.remember(gpu, self.setting, choice)
        return choice

    async def _gpu(self) -> SeenGpu | None:
        if "first" not in self._gpus:
            self._gpus["first"] = await seen_gpu(self.environment)
        return self._gpus["first"]


def decide(measured: Measured, setting: AttentionSetting) -> AttentionChoice:
    objection = _objection(measured)
    if objection is not None:
        return _sdpa(objection, measured)
    sage_ms, sdpa_ms = measured.sage_ms or 0.0, measured.sdpa_ms or 0.0
    if sage_ms >= sdpa_ms and setting != "sage":
        return _sdpa(f"SageAttention is no quicker here: {sage_ms:.2f} ms, torch's takes {sdpa_ms:.2f} ms", measured)
    reason = f"right here, {sage_ms:.2f} ms where torch's attention takes {sdpa_ms:.2f} ms"
    return AttentionChoice(backend="sage", flag=SAGE_FLAG, reason=reason, **_facts(measured))


def _objection(measured: Measured) -> str | None:  # noqa: PLR0911  one a reason
    """Return why SageAttention cannot be used, or None."""
    if measured.failure is not None:
        return f"the probe {measured.failure}"
    if measured.torch is None:
        return f"the engine's Python has no torch: {measured.torch_error}"
    if not measured.cuda or measured.capability is None:
        return "torch sees no GPU"
    if measured.capability < attention_probe.OLDEST:
        return f"the GPU's architecture {_dotted(measured.capability)} is older than SageAttention's kernels"
    if measured.sageattention is None:
        return "SageAttention is not installed"
    if measured.sage_error is not None:
        return f"SageAttention failed: {measured.sage_error}"
    if not measured.finite or measured.cosine is None or math.isnan(measured.cosine):
        return "SageAttention gave NaN or infinity"
    if measured.cosine < LEAST_COSINE:
        return f"SageAttention is wrong here: its cosine similarity to torch's is {measured.cosine:.5f}"
    if measured.sage_ms is None or measured.sdpa_ms is None:
        return "the probe measured no times"
    return None


def _sdpa(reason: str, measured: Measured | None = None) -> AttentionChoice:
    return AttentionChoice(backend="sdpa", flag=SDPA_FLAG, reason=reason, **_facts(measured or Measured()))


def _facts(measured: Measured) -> dict[str, Any]:
    cosine = measured.cosine
    return {
        "gpu": measured.gpu,
        "gpu_memory_bytes": measured.memory_bytes,
        "capability": None if measured.capability is None else _dotted(measured.capability),
        "sageattention": measured.sageattention,
        "cosine": None if cosine is None or not math.isfinite(cosine) else cosine,
        "sage_ms": measured.sage_ms,
        "sdpa_ms": measured.sdpa_ms,
    }


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _logged(choice: AttentionChoice, *, is_fallback: bool = False) -> AttentionChoice:
    level = logging.WARNING if is_fallback and choice.backend != "sage" else logging.INFO
    logger.log(level, "attention: %s (%s)", choice.backend, choice.reason)
    return choice


async def probe(
    python: str, environment: Mapping[str, str], *, time_limit_s: float, enclosure: Enclosure | None = None
) -> Measured:
    """Run the probe in that Python, with a time limit; it ends with this process."""
    # Passed as text, because the engine's user may be unable to read our code.
    command = [python, "-c", Path(attention_probe.__file__).read_text()]
    if enclosure is not None:
        environment = enclosure.environment(environment)
        command = enclosure.command(command, environment)
    try:
        process = await asyncio.create_subprocess_exec(
            *guarded(command),
            env=dict(environment),
            # The guard kills the probe when this pipe ends, that is, when this process does.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return Measured(failure=f"could not be started: {error}")
    said, complaints = bytearray(), bytearray()
    try:
        async with asyncio.timeout(time_limit_s):
            await asyncio.gather(_read(process.stdout, said), _read(process.stderr, complaints), process.wait())
    except TimeoutError:
        return parse(said, f"took longer than {time_limit_s:.0f} s")
    finally:
        kill_group(process.pid)
        await process.wait()
    failure = None if process.returncode == 0 else f"ended with {process.returncode}: {_last_line(complaints)}"
    return parse(said, failure)


async def _read(stream: asyncio.StreamReader | None, into: bytearray) -> None:
    """Read the stream to its end; bytes read before a cancellation are kept."""
    while stream is not None and (piece := await stream.read(4096)):
        into.extend(piece)


def parse(said: bytes | bytearray, failure: str | None = None) -> Measured:
    """Merge the lines that are JSON objects, later ones over earlier ones; other lines are a library's output."""
    facts: dict[str, Any] = {}
    for line in said.decode(errors="replace").splitlines():
        try:
            reported = json.loads(line)
        except ValueError:
            continue
        facts |= reported if isinstance(reported, dict) else {}
    if not facts and failure is None:
        failure = "said nothing"
    try:
        return Measured.model_validate(facts | {"failure": failure})
    except ValidationError as error:
        return Measured(failure=f"talked nonsense ({error.error_count()} errors)")


def _last_line(complaints: bytearray) -> str:
    lines = complaints.decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no message")
