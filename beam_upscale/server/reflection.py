"""Server reflection: what tools such as grpcurl ask for in place of the API's files."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from beam_upscale.grpc_api.stubs import dashboard_pb2, engines_pb2, generation_pb2, tensors_pb2

_METHOD = "ServerReflection/ServerReflectionInfo"

PATHS = (f"/grpc.reflection.v1alpha.{_METHOD}", f"/grpc.reflection.v1.{_METHOD}")
"""Of the one method: both versions have the same messages."""

_FILES = (
    tensors_pb2,
    generation_pb2,
    engines_pb2,
    dashboard_pb2,
    health_pb2,
    reflection_pb2,
)


class Reflection:
    """Tells of services and their messages.

    Args:
        services: their names.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        # The API's own pool holds its messages only, and the process's own holds others' of the
        # same names where the official SDK is loaded.
        pool = DescriptorPool()
        for file in _FILES:
            pool.AddSerializedFile(file.DESCRIPTOR.serialized_pb)
        names = (*services, reflection.SERVICE_NAME)
        self._servicer = reflection.aio.ReflectionServicer(names, pool=pool)

    async def answers(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Serialized answers to serialized requests.

        Raises:
            google.protobuf.message.DecodeError: what was sent is no request.
        """

        async def parsed() -> AsyncIterator[Any]:
            async for data in requests:
                yield reflection_pb2.ServerReflectionRequest.FromString(data)

        async for answer in self._servicer.ServerReflectionInfo(parsed(), None):
            yield answer.SerializeToString()
