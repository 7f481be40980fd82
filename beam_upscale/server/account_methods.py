"""The methods on engines and accounts: ListEngines, and the user, organization and balance."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import grpc

from beam_upscale.grpc_api.status import Refusal
from beam_upscale.grpc_api.stubs import dashboard_pb2 as dashboard
from beam_upscale.grpc_api.stubs import engines_pb2 as engines
from beam_upscale.planning.engines import ENGINES, USD_PER_CREDIT
from beam_upscale.server.accounts.key_file import MAX_CREDITS, Key
from beam_upscale.server.accounts.ledger import Ledger
from beam_upscale.server.refusals import RefusedError


class AccountMethods:
    """Answers to requests about engines and balances.

    Args:
        ledger: the ledger for balances; None if nothing is charged.
        served: the names of the engines that are served.
        is_draining: returns True once the server begins no more calls.
    """

    def __init__(
        self, ledger: Ledger | None, served: tuple[str, ...], is_draining: Callable[[], bool]
    ) -> None:
        self._ledger = ledger
        self._served = served
        self._is_draining = is_draining

    async def list_engines(self, _: Any, __: Key) -> engines.Engines:
        """Returns the engines that are served; none is ready while the server drains."""
        return engines.Engines(
            engine=[
                engines.EngineInfo(
                    id=name,
                    owner="beam-upscale",
                    ready=not self._is_draining(),
                    type=engines.PICTURE,
                    name=name,
                    description=ENGINES[name].description,
                )
                for name in self._served
            ]
        )

    async def get_me(self, _: Any, key: Key) -> dashboard.User:
        """Returns the user that a key stands for, with its one organization."""
        member = dashboard.OrganizationMember(
            organization=await self._organization(key), role=dashboard.OWNER, is_default=True
        )
        return dashboard.User(id=key.name, organizations=[member])

    async def get_organization(self, request: Any, key: Key) -> dashboard.Organization:
        """Returns a key's organization.

        Raises:
            RefusedError: PERMISSION_DENIED, the request names another one.
        """
        if request.id not in ("", key.name):
            raise RefusedError(
                Refusal(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"this key belongs to the organization {key.name!r} only",
                )
            )
        return await self._organization(key)

    async def _organization(self, key: Key) -> dashboard.Organization:
        """Returns a key's organization; each key has its own, as organizations have balances."""
        # A key without a limit shows the highest balance: clients format it as an integer.
        balance = float(MAX_CREDITS * USD_PER_CREDIT)
        if self._ledger is not None and key.credits is not None:
            left = await asyncio.to_thread(self._ledger.balance, key)
            balance = float((left or Decimal(0)) * USD_PER_CREDIT)
        payment = dashboard.OrganizationPaymentInfo(balance=balance)
        return dashboard.Organization(id=key.name, name=key.name, payment_info=payment)
