"""What a plan has at hand: where to send, what was promised to whom, and how much to do."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec

from llmchatbot.drill.cluster import Cluster, Pace
from llmchatbot.drill.outcome import Outcome
from llmchatbot.drill.people import Person, Watch
from llmchatbot.drill.reading import Follower
from llmchatbot.errors import StartupError
from llmchatbot.llm.script import Script, parse

# A deployment that has no scripted model is asked for something long.
_PLAIN_QUESTION = "Write the numbers from 1 to 200 in words, one a line."


class Sent(msgspec.Struct, frozen=True):
    """One answer that was asked for."""

    chat: str
    generation_id: str
    script: str
    # The states it may end in.
    may_end: tuple[str, ...] = ("completed",)


class Arena:
    """Made for one plan; its records are what the invariants are checked against."""

    def __init__(
        self,
        *,
        outcome: Outcome,
        seed: str,
        full: bool,
        count: int | None,
        cluster: Cluster | None,
        url: str = "",
        model: str = "",
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.outcome = outcome
        self.rng = random.Random(f"{seed}:{outcome.plan}")  # noqa: S311 - to be repeated, not to be secret
        self.full = full
        self.sent: list[Sent] = []
        self.followers: list[Follower] = []
        # Chat → how many messages a person meant to send in it.
        self.intents: dict[str, int] = {}
        self._seed = seed
        self._count = count
        self._cluster = cluster
        self._model = model
        self._urls = cluster.urls if cluster is not None else [url.rstrip("/")]
        self._on_progress = on_progress
        self._done = self._total = 0

    @property
    def cluster(self) -> Cluster:
        """Raises StartupError for a plan that was started against a deployment and needs processes to kill."""
        if self._cluster is None:
            raise StartupError("This plan kills processes: it cannot run against a deployment.")
        return self._cluster

    def on(self, cluster: Cluster) -> Arena:
        """The same plan on other nodes, with records of its own."""
        made = Arena(
            outcome=self.outcome,
            seed=self._seed,
            full=self.full,
            count=self._count,
            cluster=cluster,
            on_progress=self._on_progress,
        )
        made.expect(self._total)
        return made

    @property
    def own(self) -> bool:
        """Whether the drill started what it drills."""
        return self._cluster is not None

    @property
    def pace(self) -> Pace:
        return self._cluster.pace if self._cluster is not None else Pace()

    @property
    def urls(self) -> list[str]:
        return self._urls

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For a proxy in front of a deployment."""
        return ssl.create_default_context() if self._urls[0].startswith("https://") else None

    @property
    def targets(self) -> list[tuple[str, int]]:
        """Host and port of each node."""
        parts = [urlsplit(url) for url in self._urls]
        return [(part.hostname or "", part.port or (443 if part.scheme == "https" else 80)) for part in parts]

    def amount(self, short: int, full: int, *, deployment: int | None = None) -> int:
        """How many of what the plan is about; `--count` wins. Somebody else's deployment is treated gently."""
        if self._count is not None:
            return self._count
        if not self.own and deployment is not None:
            return deployment
        return full if self.full else short

    def expect(self, total: int) -> None:
        """How long the bar is."""
        self._total = total
        self._on_progress(0, total)

    def step(self, number: int = 1) -> None:
        self._done += number
        self._on_progress(self._done, self._total)

    @asynccontextmanager
    async def people(self, number: int, *, watch: Watch = lambda path, answer: None) -> AsyncIterator[list[Person]]:
        made: list[Person] = []
        try:
            while len(made) < number:
                person = Person(self._urls, self.outcome, watch=watch)
                made.append(await person.__aenter__())
            yield made
        finally:
            for person in made:
                await person.__aexit__()

    def follower(self, generation_id: str) -> Follower:
        """A reader whose events are compared with the log at the end."""
        made = Follower(generation_id, self.outcome)
        self.followers.append(made)
        return made

    def question(self, script: str) -> str:
        """What to send for an answer as `script` says."""
        return f"[[{script}]]" if self.own or self._model == "scripted" else _PLAIN_QUESTION

    async def ask(
        self,
        person: Person,
        script: str,
        *,
        url: str = "",
        model: str = "scripted",
        chat: str = "",
        may_end: tuple[str, ...] = ("completed",),
    ) -> str:
        """A message in `chat`, or in a chat of its own; the id of the generation."""
        chat = chat or await person.chat(url=url)
        generation_id = await person.send(chat, self.question(script), url=url, model=self.model(model))
        self.record(Sent(chat, generation_id, script, may_end))
        return generation_id

    def model(self, own: str) -> str:
        """`own` on our nodes, what the command line says on a deployment."""
        return own if self.own else self._model

    def record(self, sent: Sent) -> None:
        self.sent.append(sent)
        self.intents[sent.chat] = self.intents.get(sent.chat, 0) + 1

    async def together(self, jobs: list[Coroutine[Any, Any, Any]], *, at_once: int) -> None:
        """All of them, so many at a time; the first that fails ends the others."""
        gate = asyncio.Semaphore(at_once)

        async def run(job: Coroutine[Any, Any, Any]) -> None:
            async with gate:
                await job

        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(run(job))
        finally:
            for job in jobs:
                # Those that were not begun when another failed.
                job.close()


def text_of(script: str) -> str:
    """What a scripted model says for `script` when nothing interrupts it."""
    return "".join(parse(script, Script()).pieces())
