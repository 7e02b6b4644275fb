"""The `Cloud` port, implemented with the Modal client. Objects are not cached: a command makes each call once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import modal
from modal.exception import AuthError, ConflictError, Error, InvalidError, NotFoundError

from infra.cloud.port import (
    BadToken,
    CloudError,
    CloudUnreachable,
    NotDeployed,
    OnModel,
    PoolLoad,
    PoolScale,
    ScaleChange,
)
from infra.on_modal import APP_NAME, CHECK_FUNCTION, MODELS_FUNCTION, WORKER_CLASS
from infra.on_modal.adapters import ModalPools, UnknownPool
from infra.settings import ModalSettings


class ModalCloud:
    """The `Cloud` of a deployment. `gpus` maps the additional pools to their GPUs.

    `environment` is a Modal environment; None means the one in the client's configuration.
    """

    def __init__(self, gpus: Mapping[str, str], environment: str | None = None) -> None:
        self._environment = environment
        self._pools = ModalPools(gpus, environment=environment)

    async def hello(self) -> None:
        limit_s = ModalSettings().modal_timeout_s
        with _translated():
            try:
                # The client itself tries for a minute before it gives up.
                async with asyncio.timeout(limit_s):
                    client = await modal.Client.from_env.aio()
                    await client.hello.aio()  # type: ignore[no-untyped-call]  # the client's own gap
            except TimeoutError:
                raise CloudUnreachable(f"{server_url()} did not answer within {limit_s:g} s") from None

    async def secret_has(self, name: str, variables: Sequence[str]) -> bool:
        secret = modal.Secret.from_name(name, environment_name=self._environment, required_keys=list(variables))
        with _translated():
            try:
                await secret.hydrate.aio()
            except (NotFoundError, ConflictError, InvalidError):
                return False  # which of these the control plane chooses for a missing key is not documented
        return True

    async def volume_exists(self, name: str) -> bool:
        with _translated():
            try:
                await modal.Volume.from_name(name, environment_name=self._environment).hydrate.aio()
            except NotFoundError:
                return False
        return True

    async def has_function(self, name: str) -> bool:
        try:
            with _translated():
                await (self._worker_class() if name == WORKER_CLASS else self._function(name)).hydrate.aio()
        except NotDeployed:
            return False
        return True

    async def url(self, name: str) -> str:
        with _translated():
            found: str | None = await self._function(name).get_web_url.aio()
        if not found:
            raise NotDeployed(f"{name} has no address")
        return found

    async def load(self, pool: str) -> PoolLoad:
        with _translated():
            stats = await self._run(pool).get_current_stats.aio()
        return PoolLoad(stats.backlog, stats.num_running_inputs, stats.num_total_runners)

    async def scale(self, pool: str) -> PoolScale:
        with _translated():
            return _scale(await self._run(pool).autoscaler.settings.aio())

    async def rescale(self, pool: str, change: ScaleChange) -> PoolScale:
        wanted = {
            "min_containers": change.min_containers,
            "max_containers": change.max_containers,
            "buffer_containers": change.buffer_containers,
        }
        given = {name: number for name, number in wanted.items() if number is not None}
        with _translated():
            return _scale(await self._run(pool).autoscaler.update.aio(**given))

    async def check_image(self) -> list[str]:
        with _translated():
            missing: list[str] = await self._call(self._function(CHECK_FUNCTION).remote.aio())
        return missing

    async def manage_models(
        self, command: str, wanted: list[dict[str, Any]], on_progress: OnModel = lambda *_: None
    ) -> list[dict[str, Any]]:
        """Run a command of `infra.models.sync` on the volume for these models, and return what it found."""
        with _translated():
            messages = self._function(MODELS_FUNCTION).remote_gen.aio(command, wanted)
            found: list[dict[str, Any]] = await self._call(_collected(messages, on_progress))
        return found

    async def ticket(self, pool: str, timeout_s: float) -> int:
        # After a timeout the ticket stays: cancelling it could stop a job that it has started meanwhile.
        with _translated():
            call = await self._run(pool).spawn.aio(is_single=True)
            jobs: int = await self._call(call.get.aio(timeout=timeout_s))
        return jobs

    async def _call(self, answer: Awaitable[Any]) -> Any:
        """Await an answer of a container. Raise `CloudError` if its function failed."""
        try:
            return await answer
        except (TimeoutError, Error):
            raise
        # The client re-raises the exception of the container, whose type may be any.
        except Exception as error:
            raise CloudError(f"the container failed: {type(error).__name__}: {error}") from error

    def _function(self, name: str) -> Any:
        return modal.Function.from_name(APP_NAME, name, environment_name=self._environment)

    def _worker_class(self) -> modal.Cls:
        return modal.Cls.from_name(APP_NAME, WORKER_CLASS, environment_name=self._environment)

    def _run(self, pool: str) -> Any:
        """Return the method whose calls are the tickets of a pool."""
        try:
            return self._pools.run(pool)
        except UnknownPool as error:
            raise NotDeployed(str(error)) from error


def server_url() -> str:
    """Return the URL of Modal that the client's configuration names, the first of several."""
    return str(modal.config.config["server_url"]).partition(",")[0]


def _scale(settings: Any) -> PoolScale:
    return PoolScale(
        min_containers=settings.min_containers or 0,
        max_containers=settings.max_containers,
        buffer_containers=settings.buffer_containers or 0,
        idle_s=settings.scaledown_window,
    )


async def _collected(messages: AsyncIterator[dict[str, Any]], on_progress: OnModel) -> list[dict[str, Any]]:
    """Consume what `infra.on_modal.tasks.manage_models` yields, and return what it found."""
    found: list[dict[str, Any]] = []
    async for message in messages:
        if "found" in message:
            found = message["found"]
        else:
            on_progress(message["name"], message["have"], message["total"])
    return found


@contextmanager
def _translated() -> Iterator[None]:
    """Translate the client's errors into `CloudError` and its subclasses."""
    try:
        yield
    except NotFoundError as error:
        raise NotDeployed(str(error)) from error
    except AuthError as error:
        raise BadToken(str(error)) from error
    except modal.exception.ConnectionError as error:
        raise CloudUnreachable(f"{server_url()}: {error}") from error
    except Error as error:
        raise CloudError(f"{type(error).__name__}: {error}") from error
