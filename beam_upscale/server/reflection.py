"""Server reflection, by which tools such as grpcurl get the API's messages without its files."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from beam_upscale.grpc_api.stubs import dashboard_pb2, engines_pb2, generation_pb2, tensors_pb2

_METHOD = "ServerReflection/ServerReflectionInfo"

PATHS = (f"/grpc.reflection.v1alpha.{_METHOD}", f"/grpc.reflection.v1.{_METHOD}")
"""The paths of the method in both versions of the service, whose messages are the same."""

_FILES = (
    tensors_pb2,
    generation_pb2,
    engines_pb2,
    dashboard_pb2,
    health_pb2,
    reflection_pb2,
)


class Reflection:
    """Answers requests about services and their messages.

    Args:
        services: the names of the services.
    """

    def __init__(self, services: tuple[str, ...]) -> None:
        # The API's pool holds its own messages only. The process's pool holds other messages of the
        # same names if the official SDK is loaded.
        pool = DescriptorPool()
        for file in _FILES:
            pool.AddSerializedFile(file.DESCRIPTOR.serialized_pb)
        names = (*services, reflection.SERVICE_NAME)
        self._servicer = reflection.aio.ReflectionServicer(names, pool=pool)

    async def answers(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yields serialized answers to serialized requests.

        Raises:
            google.protobuf.message.DecodeError: the bytes are no request.
        """

        async def parsed() -> AsyncIterator[Any]:
            async for data in requests:
                yield reflection_pb2.ServerReflectionRequest.FromString(data)

        async for answer in self._servicer.ServerReflectionInfo(parsed(), None):
            yield answer.SerializeToString()
