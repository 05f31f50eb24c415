"""The composition root: builds every part once, starts them in order, ends them in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from llmchatbot.clock import Clock, SystemClock
from llmchatbot.config import Settings
from llmchatbot.database.address import Address
from llmchatbot.database.dedicated import DedicatedConnection
from llmchatbot.database.pool import Database, open_pool
from llmchatbot.errors import DatabaseUnavailable
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.models.generations import Generation, Status
from llmchatbot.repositories.answer_log import PostgresAnswerLog
from llmchatbot.security import PasswordHasher
from llmchatbot.services.accounting import Accounting
from llmchatbot.services.accounts import Accounts
from llmchatbot.services.answers import AnswerMaker
from llmchatbot.services.chats import ChatService
from llmchatbot.services.feed import FeedService
from llmchatbot.services.generations import GenerationService
from llmchatbot.services.health import HealthService
from llmchatbot.services.maintenance import MaintenanceService
from llmchatbot.services.messages import MessageService
from llmchatbot.services.nodes import NodeService
from llmchatbot.services.prompts import PromptBuilder
from llmchatbot.services.rate_limits import Counters, PostgresCounters, RateLimiter
from llmchatbot.services.request_limits import RequestLimits
from llmchatbot.services.search import SearchService
from llmchatbot.services.stream_care import StreamCare
from llmchatbot.services.titles import TitleService
from llmchatbot.services.usage import UsageService
from llmchatbot.streaming.followers import Followers, Watchers
from llmchatbot.streaming.streams import OpenStreams
from llmchatbot.streaming.tails import Tails
from llmchatbot.streaming.wakeups import SharedWakeUps
from llmchatbot.streaming.wakeups_postgres import PostgresRelay
from llmchatbot.streaming.writer import Writer
from llmchatbot.tasks import Supervisor

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from llmchatbot.streaming.wakeups_redis import RedisRelay

logger = logging.getLogger(__name__)

# Readers are sent away at once; this is for the slow ones (protocol §6).
_READERS_LEAVE_SECONDS = 5.0


class Backend:
    """Everything one process has. `start` begins the background loops, `drain` and `close` end them."""

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database,
        rounds: DedicatedConnection,
        leases: DedicatedConnection,
        gateway: ModelGateway,
        clock: Clock,
        hasher: PasswordHasher,
        redis_client: Redis | None = None,
    ) -> None:
        self.settings = settings
        self.database = database
        self.gateway = gateway
        self.clock = clock
        self.supervisor = Supervisor("backend")
        self.answers_supervisor = Supervisor("answers")
        self._rounds = rounds
        self._leases = leases
        self._build_wakeups(redis_client)
        self._build_streaming()
        self._build_answers()
        self.accounts = Accounts(
            db=database,
            wakeups=self.wakeups,
            clock=clock,
            settings=settings.auth,
            hasher=hasher,
            counters=self._build_counters(redis_client),
        )
        self.chat_service = ChatService(database=database, wakeups=self.wakeups, accounting=Accounting(self.prompts))
        self.search_service = SearchService(database=database)
        self.feed_service = FeedService(database, self.wakeups)
        self.usage_service = UsageService(database, clock)
        self.request_limits = RequestLimits(RateLimiter(clock), settings.limits)
        self.health_service = HealthService(
            database=database,
            gateway=gateway,
            draining=lambda: self.node.draining,
            listening={"wakeups": self.notify.listening, **({"redis": self.redis.listening} if self.redis else {})},
        )
        self.maintenance = MaintenanceService(
            database, clock, retention_seconds=settings.stream.retention, more=self.accounts.auth.purge_expired
        )
        self.stream_care = StreamCare(
            database=database,
            streams=self.streams,
            tails=self.tails,
            watchers=self.watchers,
            wakeups=self.wakeups,
            clock=clock,
        )

    def _build_wakeups(self, redis_client: Redis | None) -> None:
        self.notify = PostgresRelay(self.database.address, self.database)
        self.redis: RedisRelay | None = None
        if redis_client is not None:
            from llmchatbot.streaming.wakeups_redis import RedisRelay  # noqa: PLC0415 # see `_open_redis`

            self.redis = RedisRelay(redis_client)
        self.wakeups = SharedWakeUps([self.redis, self.notify] if self.redis is not None else [self.notify])

    def _build_counters(self, redis_client: Redis | None) -> Counters:
        in_postgres = PostgresCounters(self.database)
        if redis_client is None:
            return in_postgres
        from llmchatbot.services.rate_limits_redis import RedisCounters  # noqa: PLC0415 # see `_open_redis`

        return RedisCounters(redis_client, fallback=in_postgres)

    def _build_streaming(self) -> None:
        stream = self.settings.stream
        self.node = NodeService(
            database=self._leases,
            gateway=self.gateway,
            wakeups=self.wakeups,
            settings=stream,
            name=f"{socket.gethostname()}:{os.getpid()}",
        )
        self.tails = Tails()
        self.streams = OpenStreams(
            self.clock,
            heartbeat_seconds=stream.heartbeat,
            send_seconds=stream.send_timeout,
            most_per_device=self.settings.limits.streams,
        )
        self.store = PostgresAnswerLog(rounds=self._rounds, endings=self.database)
        self.writer = Writer(self.store, self.clock, node_id=self._node_id, round_seconds=stream.round)
        self.writer.collect = self.gateway.collector.collect
        self.gateway.collector.use(self.writer.nudge)
        self.watchers = Watchers(wakeups=self.wakeups, clock=self.clock, node_id=self._node_id)
        self.writer.on_stored = self.watchers.stored
        self.followers = Followers(
            store=self.store,
            tails=self.tails,
            wakeups=self.wakeups,
            clock=self.clock,
            node_id=self._node_id,
            supervisor=self.supervisor,
            poll_seconds=stream.poll,
        )

    def _build_answers(self) -> None:
        settings = self.settings
        self.prompts = PromptBuilder(
            self.database,
            self.gateway,
            recorder=self._rounds,
            default_system_prompt=settings.model.system_prompt,
        )
        self.maker = AnswerMaker(
            gateway=self.gateway,
            prompts=self.prompts,
            store=self.store,
            writer=self.writer,
            tails=self.tails,
            wakeups=self.wakeups,
            limits=settings.limits,
            supervisor=self.answers_supervisor,
        )
        self.titles = TitleService(
            self.database, self.gateway, self.wakeups, self.supervisor, enabled=settings.model.titles
        )
        self.maker.on_finished = self._on_finished
        self.maker.on_lost = lambda generation: self.watchers.forget(generation.id)
        self.node.use(self.maker, self.followers)
        self.generation_service = GenerationService(
            database=self.database,
            store=self.store,
            tails=self.tails,
            followers=self.followers,
            maker=self.maker,
            wakeups=self.wakeups,
            clock=self.clock,
            ticket_seconds=settings.stream.ticket_lifetime,
        )
        self.message_service = MessageService(
            database=self.database,
            gateway=self.gateway,
            prompts=self.prompts,
            maker=self.maker,
            generation_service=self.generation_service,
            limits=settings.limits,
            fresh_seconds=(settings.stream.lease - settings.stream.lease_renewal) / 2,
            node_id=self._node_id,
            draining=lambda: self.node.draining,
        )

    def _on_finished(self, generation: Generation, status: Status) -> None:
        self.watchers.forget(generation.id)
        self.titles.on_finished(generation, status)

    def _node_id(self) -> UUID:
        return self.node.id

    async def start(self) -> None:
        """Raises DatabaseUnavailable when the node cannot be registered; its loop tries again then."""
        for part in (self.followers, self.watchers, self.feed_service, self.stream_care, self.node):
            part.start()
        try:
            await self.node.register()
        except DatabaseUnavailable:
            logger.warning("the database is away; this node registers once it is back")
        keep = self.supervisor.keep
        keep(lambda: self.notify.run(self.wakeups.receive), name="wake-ups")
        if (redis := self.redis) is not None:
            keep(lambda: redis.run(self.wakeups.receive), name="redis")
        keep(self.writer.run, name="writer", pause=0.05)
        keep(self.watchers.run, name="hints")
        keep(self.node.run, name="node")
        keep(self.stream_care.run, name="stream care")
        keep(self.maintenance.run, name="maintenance")

    async def drain(self) -> None:
        """SIGTERM: sends are refused, readers go elsewhere, answers go on for a while, the rest is handed over."""
        self.node.draining = True
        self.streams.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.server.drain_timeout
        leave = loop.time() + _READERS_LEAVE_SECONDS
        # Two counts that others keep, looked at for seconds: an event for each would be more code than this.
        while loop.time() < deadline and (  # noqa: ASYNC110
            len(self.maker) or (len(self.streams) and loop.time() < leave)
        ):
            await asyncio.sleep(0.05)
        try:
            await self.node.hand_over()
        except DatabaseUnavailable:
            logger.warning("answers could not be handed over: the database is away; their lease will run out")

    async def close(self) -> None:
        await self.answers_supervisor.close()
        await self.supervisor.close()
        self.accounts.close()
        await self.gateway.aclose()


async def open_backend(
    settings: Settings,
    address: Address,
    stack: AsyncExitStack,
    *,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    hasher: PasswordHasher | None = None,
) -> Backend:
    """A started backend that `stack` closes. `environment` holds the keys that a models file refers to.

    Raises StartupError for models that cannot be, DatabaseUnavailable when there is no pool to be had.
    """
    database = await open_pool(address, settings.database)
    stack.push_async_callback(database.close)
    # One statement at a time; a crash of the server may lose its last 0.6 s, which the writer stores again (§5).
    rounds = DedicatedConnection(
        address,
        application_name="llmchatbot writer",
        statement_timeout=settings.database.statement_timeout,
        # One plan for ever: planning anew costs more than a small round, and the statement has one good plan, by keys.
        session={"synchronous_commit": "off", "plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"},
    )
    stack.push_async_callback(rounds.close)
    # A lease must not wait for a place in the pool: whoever misses it loses all answers at once.
    leases = DedicatedConnection(
        address,
        application_name="llmchatbot lease",
        statement_timeout=settings.database.statement_timeout,
    )
    stack.push_async_callback(leases.close)
    backend = Backend(
        settings,
        database=database,
        rounds=rounds,
        leases=leases,
        gateway=ModelGateway.from_settings(settings.model, environment or {}),
        clock=clock or SystemClock(),
        hasher=hasher or PasswordHasher(),
        redis_client=_open_redis(settings, stack),
    )
    stack.push_async_callback(backend.close)
    await backend.start()
    return backend


def _open_redis(settings: Settings, stack: AsyncExitStack) -> Redis | None:
    """No connection is made yet: Redis may be away at any time, also now."""
    if not settings.redis.enabled:
        return None
    from redis.asyncio import Redis  # noqa: PLC0415 # a tenth of the whole import, and few need it

    client = Redis(
        host=settings.redis.host,
        port=settings.redis.port,
        password=settings.redis.password or None,
        db=settings.redis.db,
        socket_connect_timeout=1,
    )
    stack.push_async_callback(client.aclose)
    return client


def with_secret(settings: Settings, jwt_secret: str) -> Settings:
    """The same settings with the secret that was made or found."""
    return msgspec.structs.replace(settings, auth=msgspec.structs.replace(settings.auth, jwt_secret=jwt_secret))
