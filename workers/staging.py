"""A job's media from the bucket into ComfyUI's input folder."""

import tempfile
from pathlib import Path

from storage.errors import ObjectNotFound
from storage.objects import ObjectStore
from storage.together import together
from storage.values import Medium
from workers.comfy.engine import ComfyEngine
from workers.errors import StagingFailed


async def stage(media: tuple[Medium, ...], objects: ObjectStore, engine: ComfyEngine) -> None:
    """All at once; memory stays constant however large they are."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-input-") as folder:
        await together(
            *(
                _stage_one(medium, Path(folder) / f"{position:03d}", objects, engine)
                for position, medium in enumerate(media)
            )
        )


async def _stage_one(medium: Medium, path: Path, objects: ObjectStore, engine: ComfyEngine) -> None:
    try:
        await objects.download_file(medium.key, path)
    except ObjectNotFound:
        raise StagingFailed(f"the bytes of {medium.name} are no longer in the bucket") from None
    await engine.stage(medium.name, path)
