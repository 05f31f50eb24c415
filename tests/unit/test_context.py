"""What a model gets to see when not everything fits, and how tokens are counted without a tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchatbot.errors import ContextTooLong
from llmchatbot.llm.context import ContextMessage, choose_context, input_budget, turns_of
from llmchatbot.llm.tokens import FIRST_GUESS, PER_MESSAGE, TokenEstimator, utf8_size


def chat(*lengths: int) -> list[ContextMessage]:
    """Messages in turn of user and assistant, of these lengths."""
    return [
        ContextMessage(id=str(number), role="assistant" if number % 2 else "user", content="x" * length)
        for number, length in enumerate(lengths)
    ]


def test_everything_goes_when_everything_fits() -> None:
    choice = choose_context(chat(10, 10, 10), budget=100, estimate=len, system_prompt="s" * 5)
    assert [message.id for message in choice.messages] == ["0", "1", "2"]
    assert choice.left_out == ()
    assert choice.tokens == 35 + 4 * PER_MESSAGE


def test_the_oldest_turns_go_first_and_never_half_of_one() -> None:
    # 10 + 4 + 10 + 4 for the first turn, 28 for the second, 14 for the newest
    choice = choose_context(chat(10, 10, 10, 10, 10), budget=69, estimate=len)
    assert [message.id for message in choice.messages] == ["2", "3", "4"]
    assert choice.left_out == ("0", "1")
    assert choice.prompt_messages()[0].role == "user"


def test_a_turn_that_does_not_fit_leaves_no_gap_behind_it() -> None:
    choice = choose_context(chat(1, 1, 500, 500, 1), budget=100, estimate=len)
    assert [message.id for message in choice.messages] == ["4"]
    assert choice.left_out == ("0", "1", "2", "3")


def test_a_message_that_is_too_long_even_alone_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextTooLong) as caught:
        choose_context(chat(10, 10, 1000), budget=100, estimate=len)
    assert caught.value.status == 422
    assert caught.value.extra == {"tokens": 1000 + PER_MESSAGE, "limit": 100}
    assert "1004" in caught.value.detail
    assert "100" in caught.value.detail


def test_the_system_prompt_and_a_prefix_count() -> None:
    with pytest.raises(ContextTooLong):
        choose_context(chat(50), budget=100, estimate=len, system_prompt="s" * 60)
    with pytest.raises(ContextTooLong):
        choose_context(chat(50), budget=100, estimate=len, prefix="p" * 60)


def test_empty_messages_are_not_sent_and_not_left_out() -> None:
    messages = [*chat(5), ContextMessage(id="stopped", role="assistant", content=" \n"), *chat(5)]
    choice = choose_context(messages, budget=100, estimate=len)
    assert [message.content for message in choice.messages] == ["xxxxx", "xxxxx"]
    assert choice.left_out == ()


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20), budget=st.integers(64, 400))
def test_the_choice_is_the_longest_run_of_whole_newest_turns_that_fits(lengths: list[int], budget: int) -> None:
    messages = chat(*lengths)
    turns = turns_of(messages)
    if sum(len(message.content) + PER_MESSAGE for message in turns[-1]) > budget:
        with pytest.raises(ContextTooLong):
            choose_context(messages, budget=budget, estimate=len)
        return
    choice = choose_context(messages, budget=budget, estimate=len)
    assert choice.tokens <= budget
    kept = len(choice.messages)
    assert list(choice.messages) == messages[len(messages) - kept :]
    assert [message.id for message in messages[: len(messages) - kept]] == list(choice.left_out)
    assert choice.messages[0] in [turn[0] for turn in turns]
    if choice.left_out:
        next_turn = next(turn for turn in turns if turn[-1].id == choice.left_out[-1])
        assert choice.tokens + sum(len(message.content) + PER_MESSAGE for message in next_turn) > budget


@pytest.mark.parametrize(
    ("window", "output", "wanted", "budget"),
    [
        (8192, 4096, None, 8192 - 2048),
        (8192, 100, None, 8192 - 100),
        (8192, 4096, 500, 8192 - 500),
        (8192, 4096, 9999, 4096),
        (1_000_000, 64_000, None, 936_000),
    ],
)
def test_the_answer_keeps_its_room(window: int, output: int, wanted: int | None, budget: int) -> None:
    assert input_budget(window, output, wanted) == budget


def test_the_estimate_learns_each_model_by_itself() -> None:
    estimator = TokenEstimator()
    text = "х" * 1000  # Cyrillic: 2,000 bytes
    assert estimator.of_text("a", text) == -(-2000 // FIRST_GUESS)
    for _ in range(30):
        estimator.observe("a", [2000], 500 + PER_MESSAGE)
    assert estimator.of_text("a", text) == 500
    assert estimator.of_text("b", text) == -(-2000 // FIRST_GUESS)


def test_one_strange_count_does_not_spoil_the_estimate() -> None:
    estimator = TokenEstimator()
    for _ in range(10):
        estimator.observe("a", [4000], 1000 + PER_MESSAGE)
    estimator.observe("a", [4000], 1)
    estimator.observe("a", [4000], 10**9)
    estimator.observe("a", [10], 10**6)
    assert 2.5 < estimator.bytes_per_token("a") < 5


def test_nothing_is_no_token() -> None:
    assert TokenEstimator().of_text("a", "") == 0
    assert utf8_size("é😀") == 6
