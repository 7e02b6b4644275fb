"""How the product is put together from its parts, for every runtime. Nothing is decided here, only wired."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from infra.settings import Settings
from storage.clock import Clock, SystemClock
from storage.engine_info import EngineInfoStore
from storage.jobs import JobStore
from storage.objects import ObjectStore
from storage.queue import JobQueue
from storage.runtimes import RuntimeStore
from storage.s3 import S3Config, S3ObjectStore
from storage.signal import Signal
from storage.uploads import UploadStore


@dataclass(frozen=True, slots=True)
class Stores:
    """The storage room, opened."""

    clock: Clock
    objects: ObjectStore
    signal: Signal
    jobs: JobStore
    queue: JobQueue
    uploads: UploadStore
    runtimes: RuntimeStore
    engine_info: EngineInfoStore


def s3_config(settings: Settings) -> S3Config:
    return S3Config(
        bucket=settings.bucket,
        endpoint_url=settings.s3_endpoint,
        public_endpoint_url=settings.s3_public_endpoint,
        region=settings.s3_region,
        access_key=settings.s3_access_key.get_secret_value() if settings.s3_access_key else None,
        secret_key=settings.s3_secret_key.get_secret_value() if settings.s3_secret_key else None,
        prefix=settings.s3_prefix,
    )


@asynccontextmanager
async def open_objects(settings: Settings) -> AsyncIterator[ObjectStore]:
    objects = S3ObjectStore(s3_config(settings))
    try:
        yield objects
    finally:
        await objects.close()


@asynccontextmanager
async def open_stores(settings: Settings, signal: Signal) -> AsyncIterator[Stores]:
    clock = SystemClock()
    async with open_objects(settings) as objects:
        jobs = JobStore(objects, clock, signal)
        yield Stores(
            clock=clock,
            objects=objects,
            signal=signal,
            jobs=jobs,
            queue=JobQueue(jobs, objects, clock, lease_s=settings.lease_s),
            uploads=UploadStore(objects, clock, expires_s=settings.upload_expires_s),
            runtimes=RuntimeStore(objects, clock),
            engine_info=EngineInfoStore(objects, clock),
        )
