"""Stages a job's input files from the bucket into ComfyUI's input folder."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from storage.bucket.objects import ObjectStore
from storage.concurrency import gather
from storage.errors import CheckUnavailable, MediumRefused, ObjectNotFound
from storage.intake.media_check import MediaCheck, MediaLimits
from storage.jobs.models import Medium
from workers.comfy.engine import ComfyEngine
from workers.errors import BadMedium, CheckFailed, StagingFailed


@dataclass(frozen=True, slots=True)
class StagingPolicy:
    """`probes` is the number of files examined at once; None means `default_probes`."""

    limits: MediaLimits = field(default_factory=MediaLimits)
    probes: int | None = None


async def stage(media: tuple[Medium, ...], objects: ObjectStore, engine: ComfyEngine, policy: StagingPolicy) -> None:
    """Stage all files concurrently in constant memory. Presigned uploads are checked here for the first time."""
    check = MediaCheck(policy.probes)
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-input-") as folder:
        await gather(
            *(
                _stage_one(medium, Path(folder) / f"{position:03d}", objects, engine, check, policy.limits)
                for position, medium in enumerate(media)
            )
        )


async def _stage_one(
    medium: Medium, path: Path, objects: ObjectStore, engine: ComfyEngine, check: MediaCheck, limits: MediaLimits
) -> None:
    try:
        await objects.download_file(medium.key, path)
    except ObjectNotFound:
        raise StagingFailed(f"the bytes of {medium.name} are no longer in the bucket") from None
    try:
        await check.check(path, limits, data=True)
    except MediumRefused as error:
        raise BadMedium(f"{medium.name}: {error}") from error
    except CheckUnavailable as error:
        raise CheckFailed(f"{medium.name}: {error}") from error
    await engine.stage(medium.name, path)
