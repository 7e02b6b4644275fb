"""Apps and the uploads of a deploy: mounts, images, secrets, blobs. Handlers have the names of their RPCs."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf import empty_pb2
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as pb

from tests.plane.metadata import handle_metadata
from tests.plane.state import SUCCESS, State

IMAGE_BUILDER = "2025.06"
TOKEN = "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9."
"""An unsigned JWT with a distant expiry as its only claim, which the client reads."""


class Apps:
    def __init__(self, state: State, end_containers: Callable[[], Awaitable[None]]) -> None:
        self._state = state
        self._end_containers = end_containers

    async def ClientHello(self, _: Any) -> Any:
        return pb.ClientHelloResponse()

    async def AuthTokenGet(self, _: Any) -> Any:
        return pb.AuthTokenGetResponse(token=TOKEN)

    async def EnvironmentGetOrCreate(self, request: Any) -> Any:
        settings = pb.EnvironmentSettings(image_builder_version=IMAGE_BUILDER)
        metadata = pb.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return pb.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def AppGetByDeploymentName(self, request: Any) -> Any:
        known = request.name in self._state.published
        return pb.AppGetByDeploymentNameResponse(app_id=self._app(request.name) if known else "")

    async def AppCreate(self, request: Any) -> Any:
        return pb.AppCreateResponse(app_id=self._app(request.description), app_page_url=self._state.web_url)

    async def AppGetOrCreate(self, request: Any) -> Any:
        return pb.AppGetOrCreateResponse(app_id=self._app(request.app_name))

    async def AppGetLayout(self, request: Any) -> Any:
        return pb.AppGetLayoutResponse(app_layout=self._state.layouts[request.app_id])

    async def AppHeartbeat(self, _: Any) -> Any:
        return empty_pb2.Empty()

    async def AppClientDisconnect(self, _: Any) -> Any:
        return empty_pb2.Empty()

    async def AppPublish(self, request: Any) -> Any:
        state = self._state
        state.published[request.name] = request
        layout = state.layouts[request.app_id]
        layout.Clear()
        for tag, function_id in request.function_ids.items():
            layout.function_ids[tag] = function_id
            metadata = handle_metadata(state.functions[function_id])
            layout.objects.add(object_id=function_id, function_handle_metadata=metadata)
        for tag, class_id in request.class_ids.items():
            layout.class_ids[tag] = class_id
            layout.objects.add(object_id=class_id, class_handle_metadata=pb.ClassHandleMetadata())
        present = {entry.object_id for entry in layout.objects}
        for function in state.functions.values():
            for dependency in function.spec.object_dependencies:
                if dependency.object_id not in present:
                    present.add(dependency.object_id)
                    layout.objects.add(object_id=dependency.object_id)
        return pb.AppPublishResponse(url=f"{state.web_url}/apps/{request.name}", deployed_at=time.time())

    async def AppStop(self, request: Any) -> Any:
        """End all containers, because the plane has one app at a time."""
        self._state.published.pop(self._state.apps[request.app_id], None)
        await self._end_containers()
        return empty_pb2.Empty()

    async def MountGetOrCreate(self, request: Any) -> Any:
        mount_id = self._state.new_id("mo")
        self._state.mounts[mount_id] = request
        metadata = pb.MountHandleMetadata(content_checksum_sha256_hex="0" * 64)
        return pb.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    async def MountBatchedCheckExistence(self, request: Any) -> Any:
        missing = [digest for digest in request.sha256_hex_hashes if digest not in self._state.files]
        return pb.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: Any) -> Any:
        files = self._state.files
        if request.data_blob_id:
            files[request.sha256_hex] = self._state.blobs[request.data_blob_id]
        elif request.WhichOneof("data_oneof"):
            files[request.sha256_hex] = request.data
        return pb.MountPutFileResponse(exists=request.sha256_hex in files)

    async def ImageGetOrCreate(self, request: Any) -> Any:
        recipe = request.image.SerializeToString(deterministic=True)
        image_id = self._state.images.setdefault(recipe, self._state.new_id("im"))
        return pb.ImageGetOrCreateResponse(
            image_id=image_id,
            result=pb.GenericResult(status=SUCCESS),
            metadata=pb.ImageMetadata(image_builder_version=IMAGE_BUILDER),
        )

    async def SecretGetOrCreate(self, request: Any) -> Any:
        """Create a secret if it comes with values, else return it by name; refuse a missing secret or missing keys."""
        secrets = self._state.secrets
        anonymous = request.object_creation_type == pb.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP
        name = "" if anonymous else request.deployment_name
        known = {secret_name: secret_id for secret_id, (secret_name, _) in secrets.items()}
        if not anonymous and name in known:
            lacking = set(request.required_keys) - set(secrets[known[name]][1])
            if lacking:
                raise GRPCError(Status.FAILED_PRECONDITION, f"secret {name} lacks {sorted(lacking)}")
            return pb.SecretGetOrCreateResponse(secret_id=known[name], metadata=pb.SecretMetadata(name=name))
        if not anonymous and not request.env_dict:
            raise GRPCError(Status.NOT_FOUND, f"secret {name!r} not found")
        secret_id = self._state.new_id("st")
        secrets[secret_id] = (name, dict(request.env_dict))
        return pb.SecretGetOrCreateResponse(secret_id=secret_id)

    async def VolumeGetOrCreate(self, request: Any) -> Any:
        """Return a volume by name; its content is not modelled."""
        volumes = self._state.volumes
        name = request.deployment_name
        if name not in volumes and request.object_creation_type == pb.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise GRPCError(Status.NOT_FOUND, f"volume {name!r} not found")
        volume_id = volumes.setdefault(name, self._state.new_id("vo"))
        metadata = pb.VolumeMetadata(name=name, version=request.version)
        return pb.VolumeGetOrCreateResponse(volume_id=volume_id, version=request.version, metadata=metadata)

    async def VolumeDelete(self, request: Any) -> Any:
        volumes = self._state.volumes
        volumes.pop(next(name for name, volume_id in volumes.items() if volume_id == request.volume_id))
        return empty_pb2.Empty()

    async def VolumeReload(self, _: Any) -> Any:
        if self._state.has_open_files:
            raise GRPCError(Status.FAILED_PRECONDITION, "there are open files preventing the operation")
        return empty_pb2.Empty()

    async def VolumeCommit(self, _: Any) -> Any:
        return pb.VolumeCommitResponse()

    async def BlobCreate(self, _: Any) -> Any:
        """Return an upload URL, which payloads above 8 KiB use."""
        blob_id = self._state.new_id("bl")
        url = f"{self._state.web_url}/_blob/{blob_id}"
        urls = pb.UploadUrlList(items=[url])
        return pb.BlobCreateResponse(blob_id=blob_id, blob_ids=[blob_id], upload_urls=urls, upload_url=url)

    async def BlobGet(self, request: Any) -> Any:
        return pb.BlobGetResponse(download_url=f"{self._state.web_url}/_blob/{request.blob_id}")

    def _app(self, name: str) -> str:
        for app_id, known in self._state.apps.items():
            if known == name:
                return app_id
        app_id = self._state.new_id("ap")
        self._state.apps[app_id] = name
        self._state.layouts[app_id] = pb.AppLayout()
        return app_id
