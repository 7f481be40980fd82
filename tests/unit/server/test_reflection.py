"""What a server tells of its services."""

from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from serving import connected, serving

from beam_upscale.server.worker import Worker


def test_reflection_tells_of_all_services_and_their_messages(worker: Worker) -> None:
    with serving(worker) as server, connected(server) as client:
        database = ProtoReflectionDescriptorDatabase(client.channel)
        services = set(database.get_services())
        file = database.FindFileContainingSymbol("gooseai.GenerationService")

    assert services == {
        "gooseai.GenerationService",
        "gooseai.EnginesService",
        "gooseai.DashboardService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    methods = [method.name for service in file.service for method in service.method]
    assert methods == ["Generate", "ChainGenerate"]
