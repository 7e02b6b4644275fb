"""Earlier choices of attention, so that a worker need not measure it at every start.

There is one object per pool, with the newest choices; the last writer wins. A choice is valid for one image, GPU and
driver. A missing or lost choice only costs another measurement.
"""

import logging

from storage import keys
from storage.bucket.objects import ObjectStore
from storage.errors import ObjectNotFound, RecordUnreadable
from storage.model import Model, read_as
from storage.pools.worker_facts import AttentionChoice

logger = logging.getLogger(__name__)

MOST_CHOICES = 16
"""Choices kept per pool, enough for a few GPUs, drivers and images."""


class _Choices(Model):
    """The choices by the image, GPU and driver that they are valid for, the oldest first."""

    choices: dict[str, AttentionChoice]


class AttentionStore:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def recall(self, pool: str, valid_for: str) -> AttentionChoice | None:
        """Return the earlier choice, or None, for one GET."""
        return (await self._read(pool)).choices.get(valid_for)

    async def remember(self, pool: str, valid_for: str, choice: AttentionChoice) -> None:
        others = {key: one for key, one in (await self._read(pool)).choices.items() if key != valid_for}
        newest = dict([*others.items(), (valid_for, choice)][-MOST_CHOICES:])
        await self._objects.put(keys.attention(pool), _Choices(choices=newest).model_dump_json().encode())

    async def _read(self, pool: str) -> _Choices:
        key = keys.attention(pool)
        try:
            return read_as(_Choices, key, (await self._objects.get(key)).body)
        except ObjectNotFound:
            return _Choices(choices={})
        except RecordUnreadable as error:
            logger.warning("earlier choices of the attention are not known: %s", error)
            return _Choices(choices={})
