"""Keys, and the organizations that they are."""

from pathlib import Path
from typing import Any

import grpc
from serving import ENGINE, SERVING, Client, chain, connected, failed, health, request, serving

from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.stubs import dashboard_pb2 as dashboard
from beam_upscale.grpc_api.stubs import engines_pb2 as engines
from beam_upscale.server.accounts.keys import add_key
from beam_upscale.server.worker import Worker


def test_keys_are_asked_for_everywhere_but_in_health_checks(
    worker: Worker, image: bytes, tmp_path: Path
) -> None:
    keys = {"keys": tmp_path / "keys.jsonl", "ledger": tmp_path / "ledger.sqlite"}
    token = add_key(keys["keys"], "one")
    with serving(worker, **keys) as server:
        for wrong in ("", "bu_wrong"):
            with connected(server, wrong) as client:
                errors = [
                    failed(client.start(request(image))),
                    failed(client.start(chain(request(image)))),
                    failed(lambda: engine_ids(client)),
                    failed(lambda: organization(client)),
                ]
                assert {error.code() for error in errors} == {grpc.StatusCode.UNAUTHENTICATED}
                assert health(client) == SERVING
        with connected(server, token) as client:
            assert engine_ids(client) == [ENGINE]
            assert client.upscale(request(image)).binary
            assert organization(client).id == "one"


def engine_ids(client: Client) -> list[str]:
    answer = client.ask(contract.LIST_ENGINES, engines.ListEnginesRequest(), engines.Engines)
    assert all(each.ready and each.type == engines.PICTURE for each in answer.engine)
    return [each.id for each in answer.engine]


def organization(client: Client, name: str = "") -> Any:
    asked = dashboard.GetOrganizationRequest(id=name)
    return client.ask(contract.GET_ORGANIZATION, asked, dashboard.Organization)


def test_a_key_is_an_organization_of_its_own(worker: Worker, tmp_path: Path) -> None:
    keys = {"keys": tmp_path / "keys.jsonl", "ledger": tmp_path / "ledger.sqlite"}
    token = add_key(keys["keys"], "one")
    with serving(worker, **keys) as server, connected(server, token) as client:
        me = client.ask(contract.GET_ME, dashboard.EmptyRequest(), dashboard.User)
        mine = organization(client, me.organizations[0].organization.id)
        error = failed(lambda: organization(client, "other"))

    assert me.id == mine.id == "one"
    assert me.organizations[0].is_default
    # A number that clients can show, also those that want it whole.
    assert mine.payment_info.balance == 10**10
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
