"""The gateway: before the first token it retries and falls back and says so; after it, never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from random import Random

import msgspec
import pytest

from llmchatbot.config import ModelSettings
from llmchatbot.errors import ModelError, UnknownModel
from llmchatbot.llm.call import Surroundings
from llmchatbot.llm.endpoint import TimeLimits
from llmchatbot.llm.events import Answering, Event, Finished, Notice, TextDelta, Usage
from llmchatbot.llm.gateway import GatewayRequest, ModelGateway
from llmchatbot.llm.port import Model, Parameters, Prompt, PromptMessage, Sink
from llmchatbot.llm.registry import ModelEntry, RegisteredModel, Registry
from llmchatbot.llm.script import Script, parse
from llmchatbot.llm.scripted import ScriptedModel
from llmchatbot.llm.scripted_server import ScriptedServer
from llmchatbot.llm.tokens import TokenEstimator
from llmchatbot.llm.transport import HttpTransport

ENTRY = ModelEntry(protocol="scripted", capabilities=frozenset({"prefix"}))
LIMITS = TimeLimits(first_byte=0.05, chunk=0.05)
WHOLE = "".join(Script(tokens=6).pieces())


class VirtualTime:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def gateway_of(
    models: dict[str, Model],
    *,
    time: VirtualTime | None = None,
    entries: dict[str, ModelEntry] | None = None,
    max_wait: float = 120.0,
) -> ModelGateway:
    """A gateway over these models; the first falls back to the second, and so on."""
    time = time or VirtualTime()
    names = list(models)
    registered = [
        RegisteredModel(
            name=name,
            entry=(entries or {}).get(name)
            or msgspec.structs.replace(ENTRY, fallbacks=tuple(names[place + 1 : place + 2])),
            upstream_name=f"{name}-upstream",
        )
        for place, name in enumerate(names)
    ]

    def build(model: RegisteredModel, transport: HttpTransport) -> Model:
        assert isinstance(transport, HttpTransport)
        return models[model.name]

    world = Surroundings(clock=time, sleep=time.sleep, random=Random(1), estimator=TokenEstimator(), max_wait=max_wait)
    return ModelGateway(Registry(registered, default=names[0]), build=build, surroundings=world)


def request(text: str = "hi", **changes: object) -> GatewayRequest:
    values: dict[str, object] = {"model": "", "messages": (PromptMessage(role="user", content=text),), **changes}
    return msgspec.convert(values, GatewayRequest)


def scripted(fault: str = "", at: int = 0, *, fails: int = 0) -> ScriptedModel:
    return ScriptedModel(Script(tokens=6, fault=fault, fault_at=at, fails=fails), limits=LIMITS)


async def collect(gateway: ModelGateway, wanted: GatewayRequest) -> tuple[list[Event], ModelError | None]:
    events: list[Event] = []
    try:
        async with aclosing(gateway.stream(wanted)) as batches:
            async for batch in batches:
                events += batch
    except ModelError as error:
        return events, error
    return events, None


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def notices_of(events: list[Event]) -> list[str]:
    return [event.code for event in events if isinstance(event, Notice)]


async def test_an_answer_is_introduced_and_ends_once() -> None:
    events, error = await collect(gateway_of({"a": scripted()}), request())
    assert error is None
    assert text_of(events) == WHOLE
    assert events[0] == Answering("a", "a-upstream")
    assert isinstance(events[-2], Usage)
    assert events[-1] == Finished("stop")
    assert sum(isinstance(event, Finished | Answering) for event in events) == 2


FAULTS_BEFORE_THE_FIRST_TOKEN = ["refuse", "stall", "cut", "garbage", "error", "html", "hugeline", "status:401"]


@pytest.mark.parametrize("fault", [*FAULTS_BEFORE_THE_FIRST_TOKEN, "status:429", "status:500"])
async def test_before_the_first_token_the_next_model_answers_and_the_client_is_told(fault: str) -> None:
    first, second = scripted(fault), scripted()
    events, error = await collect(gateway_of({"a": first, "b": second}), request())
    assert error is None
    assert text_of(events) == WHOLE
    assert notices_of(events)[-1] == "fallback"
    notice = next(event for event in events if isinstance(event, Notice) and event.code == "fallback")
    assert (notice.data["from"], notice.data["to"]) == ("a", "b")
    assert [event for event in events if isinstance(event, Answering)] == [Answering("b", "b-upstream")]
    assert second.started == 1


@pytest.mark.parametrize("fault", ["stall", "cut", "garbage", "error", "hugeline"])
async def test_after_the_first_token_there_is_neither_retry_nor_fallback(fault: str) -> None:
    first, second = scripted(fault, 3), scripted()
    events, error = await collect(gateway_of({"a": first, "b": second}), request())
    assert error is not None
    assert text_of(events) == "".join(Script(tokens=3).pieces())
    assert (first.started, second.started) == (1, 0)
    assert notices_of(events) == []
    assert not any(isinstance(event, Finished) for event in events)


async def test_reasoning_counts_as_a_token_that_was_seen() -> None:
    first = ScriptedModel(Script(tokens=0, reasoning=2, fault="noend"))
    second = scripted()
    _, error = await collect(gateway_of({"a": first, "b": second}), request())
    assert error is not None
    assert second.started == 0


async def test_trouble_that_passes_is_retried_with_jitter_and_announced() -> None:
    time = VirtualTime()
    model = scripted(fails=2)
    events, error = await collect(gateway_of({"a": model}, time=time), request())
    assert error is None
    assert text_of(events) == WHOLE
    assert notices_of(events) == ["retry", "retry"]
    assert model.started == 3
    assert 0.125 <= time.slept[0] <= 0.25 <= time.slept[1] <= 0.5


@pytest.mark.parametrize("fault", ["status:401", "status:404", "status:402", "stall"])
async def test_what_does_not_pass_is_not_retried(fault: str) -> None:
    model = scripted(fault)
    _, error = await collect(gateway_of({"a": model}), request())
    assert error is not None
    assert model.started == 1


async def test_a_refused_request_goes_to_no_other_model() -> None:
    first, second = scripted("status:400"), scripted()
    _, error = await collect(gateway_of({"a": first, "b": second}), request())
    assert error is not None
    assert error.code == "model_refused"
    assert (first.started, second.started) == (1, 0)


async def test_when_nobody_can_answer_the_first_models_error_is_told() -> None:
    _, error = await collect(gateway_of({"a": scripted("status:429"), "b": scripted("status:401")}), request())
    assert error is not None
    assert error.code == "model_overloaded"


async def test_retries_have_a_budget() -> None:
    model = scripted("refuse")
    gateway = gateway_of({"a": model}, time=VirtualTime())
    # the breaker would hide the budget: refusals of single requests do not open it
    gateway._upstreams["a"].breaker.failed = lambda: None  # type: ignore[method-assign]
    for _ in range(60):
        await collect(gateway, request())
    assert model.started < 60 + 10 + 60 * 0.1 + 2


async def test_an_unknown_model_is_a_404_that_lists_the_known_ones() -> None:
    gateway = gateway_of({"a": scripted(), "b": scripted()})
    with pytest.raises(UnknownModel) as caught:
        gateway.stream(request(model="gpt-0"))
    assert caught.value.extra["models"] == ["a", "b"]


async def test_unsupported_parameters_are_left_out_and_announced() -> None:
    model = scripted()
    events, error = await collect(
        gateway_of({"a": model}), request(parameters=Parameters(temperature=0.1, top_p=0.5, max_tokens=2))
    )
    assert error is None
    ignored = [event.data["parameter"] for event in events if isinstance(event, Notice)]
    assert ignored == ["temperature", "top_p"]
    assert model.prompts[-1].parameters == Parameters(max_tokens=2)
    assert events[-1] == Finished("length")


async def test_a_prefix_goes_on_exactly_where_it_broke_off() -> None:
    whole = "".join(Script(tokens=6).pieces())
    for cut in range(len(whole) + 1):
        events, _ = await collect(gateway_of({"a": scripted()}), request(prefix=whole[:cut]))
        assert whole[:cut] + text_of(events) == whole


async def test_a_prefix_goes_only_to_models_that_continue_it() -> None:
    cannot = ModelEntry(protocol="scripted", fallbacks=("b",))
    first, second = scripted(), scripted()
    gateway = gateway_of({"a": first, "b": second}, entries={"a": cannot})
    events, error = await collect(gateway, request(prefix="w0 "))
    assert error is None
    assert (first.started, second.started) == (0, 1)
    assert Answering("b", "b-upstream") in events
    _, error = await collect(
        gateway_of({"a": first}, entries={"a": ModelEntry(protocol="scripted")}), request(prefix="w")
    )
    assert error is not None
    assert error.code == "model_interrupted"


async def test_the_system_prompt_comes_first_and_empty_messages_do_not_go() -> None:
    model = scripted()
    messages = (
        PromptMessage(role="user", content="one"),
        PromptMessage(role="assistant", content=" "),
        PromptMessage(role="user", content="two"),
    )
    await collect(gateway_of({"a": model}), request(messages=messages, system_prompt="be kind"))
    assert [message.content for message in model.prompts[-1].messages] == ["be kind", "one", "two"]


async def test_missing_usage_is_estimated_and_marked_and_real_usage_teaches() -> None:
    silent = ScriptedModel(Script(tokens=6, usage=False))
    events, _ = await collect(gateway_of({"a": silent}), request("x" * 700))
    usage = next(event for event in events if isinstance(event, Usage))
    assert usage.estimated
    assert usage.input_tokens == 204
    assert usage.output_tokens > 0
    gateway = gateway_of({"a": scripted()})
    before = gateway.estimate_tokens("a", "y" * 1000)
    await collect(gateway, request("word " * 200))
    assert gateway.estimate_tokens("a", "y" * 1000) < before


class _Odd:
    """A model that breaks the port's rules in one way."""

    def __init__(self, batches: Callable[[], AsyncGenerator[list[Event], None]]) -> None:
        self._batches = batches

    def stream(self, prompt: Prompt, sink: Sink | None = None) -> AsyncGenerator[list[Event], None]:
        assert prompt.messages
        return self._batches()

    async def health(self) -> bool:
        return False

    async def aclose(self) -> None:
        """Holds nothing."""


async def test_a_stream_without_finished_is_interrupted_whoever_made_it() -> None:
    async def batches() -> AsyncGenerator[list[Event], None]:
        yield [TextDelta("a")]

    events, error = await collect(gateway_of({"a": _Odd(batches)}), request())
    assert text_of(events) == "a"
    assert error is not None
    assert error.code == "model_interrupted"


async def test_a_fault_of_an_adapter_becomes_a_model_error() -> None:
    async def batches() -> AsyncGenerator[list[Event], None]:
        yield [TextDelta("a")]
        raise ZeroDivisionError

    _, error = await collect(gateway_of({"a": _Odd(batches)}), request())
    assert error is not None
    assert error.code == "model_unavailable"
    assert isinstance(error.__cause__, ZeroDivisionError)


async def test_leaving_closes_the_model_and_gives_the_place_back() -> None:
    model = ScriptedModel(Script(tokens=6, rate=5))
    gateway = gateway_of({"a": model}, entries={"a": ModelEntry(protocol="scripted", max_concurrent=1)})
    batches = gateway.stream(request())
    while not any(isinstance(event, TextDelta) for event in await anext(batches)):
        pass
    assert model.running == 1
    await batches.aclose()
    assert model.running == 0
    assert gateway._upstreams["a"].limiter.running == 0


async def test_the_line_is_announced_and_passes_the_place_on() -> None:
    model = ScriptedModel(Script(tokens=3, rate=50))
    gateway = gateway_of({"a": model}, entries={"a": ModelEntry(protocol="scripted", max_concurrent=1)})
    results = await asyncio.gather(*(collect(gateway, request(user_id=str(number))) for number in range(3)))
    assert [error for _, error in results] == [None, None, None]
    positions = [
        [event.data["position"] for event in events if isinstance(event, Notice) and event.code == "queue_position"]
        for events, _ in results
    ]
    assert positions[0] == []
    assert positions[1][0] == 1
    assert positions[2][0] == 2
    assert model.started == 3


async def test_a_full_line_and_an_endless_line_are_overload() -> None:
    model = ScriptedModel(Script(tokens=3, rate=0.1))
    entry = ModelEntry(protocol="scripted", max_concurrent=1, max_waiting=1)
    time = VirtualTime()
    gateway = gateway_of({"a": model}, entries={"a": entry}, time=time, max_wait=5.0)
    runs = gateway.stream(request())
    await anext(runs)
    waits = gateway.stream(request())
    assert notices_of(await anext(waits)) == ["queue_position"]
    _, error = await collect(gateway, request())
    assert error is not None
    assert error.code == "model_overloaded"
    time.now += 6
    with pytest.raises(ModelError, match="waiting line"):
        await anext(waits)
    await runs.aclose()


async def test_a_broken_upstream_is_left_alone_for_a_while_and_then_tried_by_one_call() -> None:
    time = VirtualTime()
    model = scripted("refuse")
    gateway = gateway_of({"a": model}, time=time)
    while not gateway._upstreams["a"].breaker.open:
        await collect(gateway, request())
    asked = model.started
    _, error = await collect(gateway, request())
    assert model.started == asked
    assert error is not None
    assert "again in" in error.detail
    assert (await gateway.health())["a"] is False
    time.now += 10
    model._script = Script(tokens=6)
    events, error = await collect(gateway, request())
    assert error is None
    assert text_of(events) == WHOLE
    assert not gateway._upstreams["a"].breaker.open


async def test_llm_service_url_is_asked_what_it_speaks_once() -> None:
    async with ScriptedServer(Script(tokens=6)) as server:
        gateway = ModelGateway.from_settings(ModelSettings(service_url=server.url))
        for _ in range(2):
            events, error = await collect(gateway, request())
            assert error is None
            assert text_of(events) == WHOLE
        assert await gateway.health() == {"default": True, "guide": True}
        await gateway.aclose()
        # one question, two answers, one look at its health
        assert server.stats.requests == 4
        assert [body.keys() for body in server.bodies] == [{"prompt", "history", "model"}] * 2


async def test_an_openai_service_without_a_models_name_is_asked_for_one() -> None:
    async with ScriptedServer(Script(tokens=6)) as server:
        gateway = ModelGateway.from_settings(ModelSettings(service_url=server.url, service_protocol="openai"))
        events, error = await collect(gateway, request())
        await gateway.aclose()
    assert error is None
    assert Answering("default", "scripted") in events
    assert server.bodies[0]["model"] == "scripted"


async def test_a_service_that_is_not_there_yet_is_asked_again_at_the_next_call() -> None:
    server = ScriptedServer(Script(tokens=6))
    async with server:
        url, port = server.url, int(server.url.rpartition(":")[2])
    gateway = ModelGateway.from_settings(ModelSettings(service_url=url))
    _, error = await collect(gateway, request())
    assert error is not None
    assert error.code == "model_unavailable"
    async with ScriptedServer(Script(tokens=6), port=port):
        _, error = await collect(gateway, request())
        assert error is None
    await gateway.aclose()


async def test_an_address_that_speaks_neither_protocol_is_misconfigured() -> None:
    async with ScriptedServer() as server:
        gateway = ModelGateway.from_settings(ModelSettings(service_url=f"{server.url}/nowhere"))
        _, error = await collect(gateway, request())
        await gateway.aclose()
    assert error is not None
    assert error.code == "model_misconfigured"
    assert "LLM_SERVICE_PROTOCOL" in error.detail


TWO_SERVERS = """
[models.first]
protocol = "openai"
url = "{first}"
fallbacks = ["second"]
limits = {{ first_byte = {patience} }}

[models.second]
protocol = "ndjson"
url = "{second}"
"""


async def over_two_servers(folder: Path, fault: str, patience: float) -> tuple[list[Event], ModelError | None, int]:
    """One call over real sockets: the events, the error, and how often the second server was asked."""
    broken, sound = ScriptedServer(parse(f"tokens=6 fault={fault}", Script())), ScriptedServer(Script(tokens=6))
    async with broken, sound:
        path = folder / "models.toml"
        path.write_text(TWO_SERVERS.format(first=broken.url, second=sound.url, patience=patience), encoding="utf-8")
        gateway = ModelGateway.from_settings(ModelSettings(models_file=str(path)))
        events, error = await collect(gateway, request())
        await gateway.aclose()
        return events, error, sound.stats.requests


@pytest.mark.parametrize("fault", ["refuse", "stall", "cut", "error", "html", "status:503"])
async def test_over_real_sockets_the_second_server_answers_before_the_first_token(fault: str, tmp_path: Path) -> None:
    events, error, asked = await over_two_servers(tmp_path, fault, 0.5 if fault == "stall" else 30)
    assert error is None
    assert text_of(events) == WHOLE
    assert "fallback" in notices_of(events)
    assert asked == 1


async def test_over_real_sockets_no_second_server_is_asked_after_the_first_token(tmp_path: Path) -> None:
    events, error, asked = await over_two_servers(tmp_path, "cut@3", 30)
    assert error is not None
    assert error.code == "model_interrupted"
    assert text_of(events) == "".join(Script(tokens=3).pieces())
    assert asked == 0


async def test_stop_closes_the_upstream_connection_before_it_returns() -> None:
    async with ScriptedServer(Script(tokens=1000, rate=100)) as server:
        gateway = ModelGateway.from_settings(ModelSettings(service_url=server.url))
        batches = gateway.stream(request())
        while not any(isinstance(event, TextDelta) for event in await anext(batches)):
            pass
        await batches.aclose()
        await asyncio.wait_for(server.all_closed.wait(), 10)
        assert (server.stats.running, server.stats.aborted, server.stats.finished) == (0, 1, 0)
        await gateway.aclose()
