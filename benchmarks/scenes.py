"""The scenes: which load meets which contenders, for how long."""

from __future__ import annotations

import msgspec

STREAM_PEERS = ("go_relay", "fastapi_relay", "plain_relay", "ours")
OURS_ONLY = ("ours",)


class StreamScene(msgspec.Struct, frozen=True, kw_only=True):
    """So many answers at any time, each at its rate."""

    name: str
    title: str
    streams: int
    rate: int
    tokens: int = 500
    """Of one answer. The end of each is followed by the next question on the same chat, as people do."""
    staggered: bool = True
    mode: str = "answers"
    readers: int = 0
    subjects: tuple[str, ...] = STREAM_PEERS
    ramp: float = 2.0
    """Seconds in which the answers begin at first; a crowd that comes at once measures the crowd."""
    settle: float = 1.0
    window: float = 5.0
    rounds: int = 3
    logins: int = 0
    """Connections that log in, one attempt after the other, beside the streams."""
    share: float = 0.0
    """Of a core, for each process of the contender; 0: whatever there is."""
    env: dict[str, str] = {}

    @property
    def expected_rate(self) -> int:
        """Tokens a second that the sources send to this scene's readers."""
        return self.streams * self.rate * (1 + self.readers)


class ListScene(msgspec.Struct, frozen=True, kw_only=True):
    """So many messages in the database, and what is asked for."""

    name: str
    title: str
    messages: int
    subjects: tuple[str, ...] = ("ours",)
    window: float = 4.0
    rounds: int = 2


HEADLINE = StreamScene(name="relay-400x50", title="400 answers at 50 tokens/s", streams=400, rate=50, ramp=5.0)

RELAY_FULL = tuple(
    StreamScene(
        name=f"relay-{streams}x{rate}",
        title=f"{streams} answer{'s' if streams > 1 else ''} at {rate} tokens/s",
        streams=streams,
        rate=rate,
        ramp=1.0 if streams == 1 else max(2.0, streams / 80),
        window=6.0,
        rounds=5 if (streams, rate) == (400, 50) else 2,
    )
    for streams in (1, 100, 400, 1000)
    for rate in (20, 50)
)

LONG = StreamScene(
    name="long-400x50",
    title="400 answers at 50 tokens/s, none begins or ends meanwhile",
    streams=400,
    rate=50,
    tokens=2500,
    staggered=False,
    ramp=5.0,
    rounds=3,
    subjects=(*STREAM_PEERS[:-1], "unstored", "ours"),
)
SHORT = StreamScene(
    name="short-20x50",
    title="20 chats, answers of 20 tokens: beginnings and ends",
    streams=20,
    rate=50,
    tokens=20,
    rounds=2,
)
TWO_PROCESSES = StreamScene(
    name="processes-1000x50",
    title="1,000 answers at 50 tokens/s, one and two processes",
    streams=1000,
    rate=50,
    ramp=12.5,
    window=6.0,
    subjects=("ours", "ours_two"),
    rounds=2,
)
# What two processes do is hidden where source, readers and database need the cores that the second would have. So each
# gets a fifth of a core and more answers than that can serve: what counts is how many tokens come through.
CONFINED = tuple(
    msgspec.structs.replace(
        TWO_PROCESSES,
        name=f"confined-{streams}x50",
        title=f"{streams} answers at 50 tokens/s, {processes}",
        streams=streams,
        share=0.2,
        ramp=streams / 70,
        subjects=(subject,),
    )
    for streams, processes, subject in (
        (280, "one process of a fifth of a core", "ours"),
        (560, "two processes of a fifth of a core each", "ours_two"),
    )
)
READERS = StreamScene(
    name="readers-100x50x5",
    title="100 answers at 50 tokens/s, 5 readers each",
    streams=100,
    rate=50,
    readers=4,
    mode="readers",
    subjects=OURS_ONLY,
    rounds=2,
)
STORM = StreamScene(
    name="storm-400x20",
    title="400 readers cut at once",
    streams=400,
    rate=20,
    tokens=300,
    ramp=5.0,
    mode="storm",
    subjects=OURS_ONLY,
    window=14.0,
    rounds=2,
)
IDLE = StreamScene(
    name="idle-10000",
    title="10,000 idle streams",
    streams=200,
    rate=0,
    tokens=1,
    readers=49,
    mode="idle",
    subjects=OURS_ONLY,
    ramp=15.0,
    settle=3.0,
    window=8.0,
    rounds=1,
    env={"LLM_CHUNK_TIMEOUT": "10m", "LLM_FIRST_BYTE_TIMEOUT": "10m"},
)
LOGINS = StreamScene(
    name="logins-400x20",
    title="log-in burst beside 400 answers at 20 tokens/s",
    streams=400,
    rate=20,
    ramp=5.0,
    logins=4,
    subjects=OURS_ONLY,
    rounds=2,
)

LIST_PEERS = ("go_list", "fastapi_list", "ours")
LIST_QUICK = ListScene(
    name="list-100k-chats", title="20 of 100,000 chats", messages=0, subjects=LIST_PEERS, window=1.5, rounds=2
)
LIST_FULL = msgspec.structs.replace(LIST_QUICK, window=4.0, rounds=5)
HISTORY_SIZES = (1_000, 10_000, 100_000, 1_000_000)

# What fits into about three minutes: the lower bound and the single scenes are left to the full form.
QUICK = (
    msgspec.structs.replace(HEADLINE, ramp=3.0, window=3.5, rounds=2, subjects=("go_relay", "fastapi_relay", "ours")),
)
FULL = (*RELAY_FULL, LONG, SHORT, READERS, STORM, LOGINS, TWO_PROCESSES, *CONFINED, IDLE)
ALL = {scene.name: scene for scene in (*FULL, HEADLINE)}
GROWTH = ListScene(
    name="growth", title="reads while the database grows", messages=HISTORY_SIZES[-1], window=3.0, rounds=2
)
