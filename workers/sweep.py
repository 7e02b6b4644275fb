"""Going through all hints below a prefix, page by page."""

from collections.abc import AsyncIterator, Sequence

from storage.objects import ObjectStore


async def all_keys(objects: ObjectStore, prefix: str, *, page: int = 1000) -> AsyncIterator[Sequence[str]]:
    after = ""
    while True:
        listed = await objects.list(prefix, after=after, limit=page)
        if listed.keys:
            yield listed.keys
        if not listed.more:
            return
        after = listed.keys[-1]
