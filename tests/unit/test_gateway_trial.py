"""`models test`: what it measures, and that a model's failure is a line in it and no crash."""

from __future__ import annotations

from llmchatbot.config import ModelSettings
from llmchatbot.llm.gateway import ModelGateway
from llmchatbot.llm.script import Script
from llmchatbot.llm.scripted_server import ScriptedServer
from llmchatbot.llm.trial import try_model


async def test_a_trial_measures_first_token_and_rate() -> None:
    async with ScriptedServer(Script(tokens=30, rate=200, first=0.1)) as server:
        settings = ModelSettings(service_url=server.url, service_protocol="openai", service_model="m")
        gateway = ModelGateway.from_settings(settings)
        trial = await try_model(gateway, "")
        await gateway.aclose()
    assert (trial.model, trial.upstream, trial.error) == ("m", "m", "")
    assert trial.first_token is not None
    assert trial.first_token >= 0.1
    assert trial.output_tokens == 30
    assert trial.tokens_per_second is not None
    assert 0 < trial.tokens_per_second < 400
    assert trial.text.startswith("w0 w1 ")


async def test_a_failure_is_a_sentence() -> None:
    gateway = ModelGateway.from_settings(ModelSettings(openai_key=""))
    assert "known are: guide" in (await try_model(gateway, "gpt-0")).error
    await gateway.aclose()
    async with ScriptedServer(Script(fault="status:401")) as server:
        gateway = ModelGateway.from_settings(ModelSettings(service_url=server.url, service_protocol="ndjson"))
        trial = await try_model(gateway, "")
        await gateway.aclose()
    assert "LLM_SERVICE_URL" in trial.error
    assert trial.first_token is None
    assert trial.tokens_per_second is None
