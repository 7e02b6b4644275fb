"""Fetches the files behind a request's URLs, bounded in number, bytes, time and concurrency.

The fetches of a request run one after another. The media check needs whole files, so they are kept as local temporary
files until the job is stored. They are removed when the request ends, whether it succeeds or fails.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from app.body import Body
from app.problems import Problem
from app.services import Services
from app.submission.byte_quota import ByteQuota
from app.submission.request import InputValue, MediumSource
from storage.errors import FetchFailed, FetchRefused
from storage.fair_slots import NoSlot
from storage.intake.fetch import Meter, NotReserved

RETRY_S = 10
"""The Retry-After of a request that found every fetch slot taken."""


def url_count(media: Iterable[MediumSource], inputs: Iterable[InputValue]) -> int:
    """Count the files to fetch for these media and inputs."""
    return sum(source.url is not None for source in media) + sum(given.type == "image_url" for given in inputs)


class UrlFetching:
    """Fetches the URLs of one request. All methods raise `Problem`."""

    def __init__(self, services: Services, tenant: str, body: Body) -> None:
        self._services = services
        self._fetcher, self._places = services.fetcher, services.fetch_places
        self._config = services.config
        self._tenant = tenant
        self._body = body
        self._quota = ByteQuota(services, tenant)
        self._deadline: float | None = None
        self._left = services.config.max_request_bytes

    async def fetch(self, name: str, url: str, path: Path, where: str) -> int:
        """Write the bytes behind the URL to `path`, charge them to the tenant and return their number."""
        self._services.check_disk()
        deadline = await self._begun(where)
        meter = Meter(self._quota.has_charged)
        try:
            async with asyncio.timeout_at(deadline), self._places.hosts.slot(_host(url)):
                # All files that a request fetches count together as if they had come in its body.
                most = min(self._config.max_medium_bytes, self._left)
                return await self._fetcher.fetch(url, path, meter=meter, max_bytes=most)
        except NotReserved as error:
            raise self._quota.refusal(error.size_bytes) from None
        except FetchRefused as error:
            raise Problem("fetch-refused", f"{name!r}: {error}", pointer=where) from None
        except FetchFailed as error:
            raise Problem("fetch-failed", f"{name!r}: {error}", pointer=where) from None
        except TimeoutError:
            detail = f"{name!r}: the URLs of this request took more than {self._config.max_fetch_s:g} s"
            raise Problem("fetch-failed", detail, pointer=where) from None
        finally:
            # Bytes are reserved ahead in steps; what was reserved and not received is refunded, also after a failure.
            self._left -= meter.received
            await self._quota.give_back(meter.reserved - meter.received)

    async def _begun(self, where: str) -> float:
        """Return the loop time at which this request's fetches must end. The first call waits for a fetch slot."""
        if self._deadline is None:
            try:
                leave = await self._places.requests.enter(self._tenant)
            except NoSlot as error:
                detail = f"too many requests fetch URLs: {error}"
                headers = {"Retry-After": str(RETRY_S)}
                raise Problem("fetches-busy", detail, pointer=where, headers=headers) from None
            # The slot is held until the body is closed: this bounds how many requests have fetched files on disk.
            self._body.at_close(leave)
            self._deadline = asyncio.get_running_loop().time() + self._config.max_fetch_s
        return self._deadline


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")  # a host with a trailing dot is the same host
    except ValueError:
        return ""  # a URL without a host, which the fetcher refuses with a better message
