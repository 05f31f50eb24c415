"""All settings: frozen, nested, read once from the environment and `.env`, validated as a whole.

Each field carries its variable and its sentence, so the table in `docs/settings.md` and `.env.example` are made from
this file. A secret may also come from a file: `JWT_SECRET_FILE=/run/secrets/jwt`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from dotenv import dotenv_values

from llmchatbot.errors import StartupError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
# What is signed for longer is not believed (security.py).
LONGEST_ACCESS_TOKEN = 7 * 86400
_MAY_BE_ZERO = {"REDIS_DB", "REFRESH_GRACE", "SERVER_DRAIN_TIMEOUT", "STREAM_RETENTION"}
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(float):
    """Seconds, written as Go writes them: `15m`, `168h`, `1h30m`, `20ms`; a bare number is seconds."""

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Raises ValueError when `text` is neither a number nor a run of numbers with units."""
        stripped = text.strip()
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", stripped):
            return cls(stripped)
        if not re.fullmatch(rf"(?:{_DURATION.pattern})+", stripped):
            raise ValueError("a duration looks like 15m, 168h or 20ms")
        return cls(sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(stripped)))


class Env(msgspec.Struct, frozen=True):
    """Where a field comes from, and what it is for."""

    name: str
    help: str
    secret: bool = False


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: Annotated[str, Env("SERVER_HOST", "Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1"
    port: Annotated[int, Env("SERVER_PORT", "Port to listen on.")] = 8080
    read_timeout: Annotated[Duration, Env("SERVER_READ_TIMEOUT", "Time a client has to send a body.")] = Duration(15)
    idle_timeout: Annotated[
        Duration, Env("SERVER_IDLE_TIMEOUT", "Time a client has to send the head of a request.")
    ] = Duration(10)
    request_timeout: Annotated[
        Duration, Env("SERVER_REQUEST_TIMEOUT", "Longest time for a route that is no stream.")
    ] = Duration(10)
    workers: Annotated[int, Env("SERVER_WORKERS", "Processes that share the port.")] = 1
    environment: Annotated[
        str, Env("ENVIRONMENT", "development or production; production refuses to invent secrets.")
    ] = "development"
    data_dir: Annotated[Path, Env("DATA_DIR", "Where the embedded PostgreSQL, made secrets and local models live.")] = (
        Path(".data")
    )
    public_url: Annotated[str, Env("PUBLIC_URL", "Address that clients see, when a proxy stands in front.")] = ""
    trusted_proxies: Annotated[
        str, Env("TRUSTED_PROXIES", "Addresses whose X-Forwarded-For is believed, separated by commas.")
    ] = ""
    cors_origins: Annotated[
        str, Env("CORS_ORIGINS", "Origins of web clients served elsewhere, separated by commas.")
    ] = ""
    drain_timeout: Annotated[Duration, Env("SERVER_DRAIN_TIMEOUT", "Time own answers may go on after SIGTERM.")] = (
        Duration(30)
    )

    @property
    def local_url(self) -> str:
        """Where this machine reaches what listens on `host`."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 # compared, not listened on
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    metrics_token: Annotated[
        str, Env("METRICS_TOKEN", "Bearer token for /metrics; empty: only this machine may read it.", secret=True)
    ] = ""
    log_level: Annotated[str, Env("LOG_LEVEL", "debug, info, warning or error.")] = "info"
    log_format: Annotated[str, Env("LOG_FORMAT", "text or json; empty: json in production.")] = ""


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: Annotated[str, Env("DB_HOST", "PostgreSQL server; empty: the embedded one in DATA_DIR.")] = ""
    port: Annotated[int, Env("DB_PORT", "Its port.")] = 5432
    user: Annotated[str, Env("DB_USER", "Role; it must exist.")] = "chat_app_user"
    password: Annotated[str, Env("DB_PASSWORD", "Its password.", secret=True)] = ""
    name: Annotated[str, Env("DB_NAME", "Database; created when missing, where the role may.")] = "chat_db"
    sslmode: Annotated[str, Env("DB_SSLMODE", "disable, prefer, require, verify-ca or verify-full.")] = "prefer"
    max_connections: Annotated[int, Env("DB_MAX_OPEN_CONNS", "Connections of one process at the most.")] = 25
    acquire_timeout: Annotated[Duration, Env("DB_ACQUIRE_TIMEOUT", "Longest wait for a connection.")] = Duration(2)
    statement_timeout: Annotated[Duration, Env("DB_STATEMENT_TIMEOUT", "Longest time for one statement.")] = Duration(5)
    bin_dir: Annotated[str, Env("PG_BIN", "Folder with postgres and initdb for the embedded server.")] = ""

    @property
    def embedded(self) -> bool:
        return not self.host


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    jwt_secret: Annotated[
        str,
        Env("JWT_SECRET", "Signs tokens; 32 characters or more. Made once and kept in DATA_DIR if empty.", secret=True),
    ] = ""
    access_token_expiry: Annotated[Duration, Env("JWT_ACCESS_TOKEN_EXPIRY", "Life of an access token.")] = Duration(900)
    refresh_token_expiry: Annotated[
        Duration, Env("JWT_REFRESH_TOKEN_EXPIRY", "A device that was idle for so long must log in again.")
    ] = Duration(168 * 3600)
    absolute_expiry: Annotated[
        Duration, Env("SESSION_ABSOLUTE_EXPIRY", "A device must log in again after this, used or not.")
    ] = Duration(90 * 86400)
    rotation_grace: Annotated[
        Duration, Env("REFRESH_GRACE", "Time in which a rotated refresh token still gets its one successor.")
    ] = Duration(10)
    guest_lifetime: Annotated[Duration, Env("GUEST_LIFETIME", "Life of a guest account.")] = Duration(86400)
    guests_enabled: Annotated[bool, Env("GUESTS_ENABLED", "Whether POST /auth/guest makes accounts.")] = True
    registration_enabled: Annotated[bool, Env("REGISTRATION_ENABLED", "Whether anyone may register.")] = True
    login_attempts: Annotated[int, Env("LOGIN_ATTEMPTS", "Failed log-ins in an hour per account and address.")] = 20
    register_per_hour: Annotated[int, Env("REGISTER_PER_HOUR", "New accounts in an hour per address.")] = 60


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: Annotated[str, Env("REDIS_HOST", "Redis for wake-ups and rate limits; empty: PostgreSQL does both.")] = ""
    port: Annotated[int, Env("REDIS_PORT", "Its port.")] = 6379
    password: Annotated[str, Env("REDIS_PASSWORD", "Its password.", secret=True)] = ""
    db: Annotated[int, Env("REDIS_DB", "Its database number.")] = 0

    @property
    def enabled(self) -> bool:
        return bool(self.host)


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    service_url: Annotated[
        str, Env("LLM_SERVICE_URL", "Model service, e.g. http://localhost:5000; empty: see docs/models.md.")
    ] = ""
    service_timeout: Annotated[Duration, Env("LLM_SERVICE_TIMEOUT", "Longest time for one answer.")] = Duration(300)
    service_protocol: Annotated[
        str, Env("LLM_SERVICE_PROTOCOL", "auto, ndjson or openai: what LLM_SERVICE_URL speaks.")
    ] = "auto"
    service_key: Annotated[str, Env("LLM_SERVICE_KEY", "Key for LLM_SERVICE_URL.", secret=True)] = ""
    service_model: Annotated[str, Env("LLM_SERVICE_MODEL", "Model name sent to LLM_SERVICE_URL.")] = ""
    service_prefix: Annotated[
        bool,
        Env(
            "LLM_SERVICE_PREFIX",
            "Whether it goes on from the beginning of an answer: then a killed process is made up for.",
        ),
    ] = False
    models_file: Annotated[str, Env("MODELS_FILE", "TOML file of models; see docs/models.md.")] = ""
    default_model: Annotated[str, Env("DEFAULT_MODEL", "Model of a chat that names none.")] = ""
    openai_key: Annotated[str, Env("OPENAI_API_KEY", "Makes OpenAI's models appear.", secret=True)] = ""
    anthropic_key: Annotated[str, Env("ANTHROPIC_API_KEY", "Makes Anthropic's models appear.", secret=True)] = ""
    gemini_key: Annotated[str, Env("GEMINI_API_KEY", "Makes Google's models appear.", secret=True)] = ""
    openrouter_key: Annotated[str, Env("OPENROUTER_API_KEY", "Makes OpenRouter's models appear.", secret=True)] = ""
    autodetect: Annotated[bool, Env("LLM_AUTODETECT", "Look for a model server on the usual loopback ports.")] = False
    local_model: Annotated[str, Env("LOCAL_MODEL", "GGUF file for the local model service.")] = ""
    use_environment_proxies: Annotated[
        bool, Env("LLM_TRUST_ENV_PROXIES", "Whether HTTP(S)_PROXY is used for model calls.")
    ] = False
    connect_timeout: Annotated[Duration, Env("LLM_CONNECT_TIMEOUT", "Upstream: connect.")] = Duration(5)
    first_byte_timeout: Annotated[Duration, Env("LLM_FIRST_BYTE_TIMEOUT", "Upstream: first byte.")] = Duration(60)
    chunk_timeout: Annotated[Duration, Env("LLM_CHUNK_TIMEOUT", "Upstream: between two chunks.")] = Duration(30)
    max_concurrent: Annotated[int, Env("LLM_MAX_CONCURRENT", "Calls at once per upstream and process.")] = 1000
    titles: Annotated[bool, Env("LLM_TITLES", "Whether the model makes a chat's title after the first answer.")] = False
    system_prompt: Annotated[str, Env("SYSTEM_PROMPT", "System prompt of chats that have none.")] = ""
    scripted: Annotated[bool, Env("LLM_SCRIPTED", "Offer the scripted model, for tests and benchmarks.")] = False


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    round: Annotated[Duration, Env("STREAM_ROUND", "Pause between two rounds of storing.")] = Duration(0.02)
    heartbeat: Annotated[Duration, Env("STREAM_HEARTBEAT", "Silence after which a heartbeat is sent.")] = Duration(15)
    poll: Annotated[Duration, Env("STREAM_POLL", "Slow poll behind the wake-ups of other processes.")] = Duration(1)
    send_timeout: Annotated[Duration, Env("STREAM_SEND_TIMEOUT", "Time a reader has to take one frame.")] = Duration(30)
    retention: Annotated[Duration, Env("STREAM_RETENTION", "Time events are kept after the end.")] = Duration(3600)
    get_enabled: Annotated[
        bool, Env("STREAM_GET_ENABLED", "Whether GET /stream/chat/{id}?message= may send messages.")
    ] = True
    lease: Annotated[Duration, Env("LEASE", "Time after which a silent process is taken over.")] = Duration(10)
    lease_renewal: Annotated[Duration, Env("LEASE_RENEWAL", "Time between two renewals.")] = Duration(3)
    ticket_lifetime: Annotated[Duration, Env("STREAM_TICKET_LIFETIME", "Life of a stream ticket.")] = Duration(300)


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    active_generations: Annotated[int, Env("MAX_ACTIVE_GENERATIONS", "Answers one person may have in the making.")] = 3
    answer_bytes: Annotated[int, Env("MAX_ANSWER_BYTES", "Longest answer, in bytes of UTF-8.")] = 1 << 20
    answer_time: Annotated[Duration, Env("MAX_ANSWER_TIME", "Longest time for one answer.")] = Duration(600)
    streams: Annotated[int, Env("MAX_STREAMS", "Streams one device may hold open on each process.")] = 100
    messages_per_minute: Annotated[int, Env("MESSAGES_PER_MINUTE", "Messages one person may send in a minute.")] = 60
    requests_per_minute: Annotated[int, Env("REQUESTS_PER_MINUTE", "Requests one person may make in a minute.")] = 1200


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the product can be told. Build it with `load`, or directly in tests."""

    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    auth: AuthSettings = AuthSettings()
    redis: RedisSettings = RedisSettings()
    model: ModelSettings = ModelSettings()
    stream: StreamSettings = StreamSettings()
    limits: LimitSettings = LimitSettings()

    @property
    def production(self) -> bool:
        return self.server.environment == "production"


class Field(msgspec.Struct, frozen=True):
    """One setting as documentation and loader see it."""

    section: str
    attribute: str
    env: Env
    kind: type
    default: Any


def fields() -> Iterator[Field]:
    """All settings in the order of this file."""
    for section in msgspec.structs.fields(Settings):
        section_type = type(section.default)
        hints = get_type_hints(section_type, include_extras=True)
        for field in msgspec.structs.fields(section_type):
            hint = hints[field.name]
            if get_origin(hint) is Annotated:
                kind, env = get_args(hint)
                yield Field(section.name, field.name, env, kind, field.default)


def read_environment(env_file: Path = Path(".env"), environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """`environment` (default: the process's), and what stands in `env_file` for what is not set there."""
    values: dict[str, str] = {}
    if env_file.is_file():
        values.update({key: value for key, value in dotenv_values(env_file).items() if value is not None})
    values.update(os.environ if environment is None else environment)
    return values


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings out of `environment`; by default the process's with `.env` behind it.

    Raises StartupError naming every variable that is wrong, all of them at once.
    """
    values = read_environment() if environment is None else environment
    problems: list[str] = []
    sections: dict[str, dict[str, Any]] = {}
    for field in fields():
        try:
            text = _text_of(field.env, values)
            if text:
                sections.setdefault(field.section, {})[field.attribute] = _parse(field.kind, text)
        except (ValueError, OSError) as error:
            problems.append(f"{field.env.name}: {error}")
    if problems:
        raise StartupError("Some settings are wrong:\n  " + "\n  ".join(problems))
    types = {section.name: type(section.default) for section in msgspec.structs.fields(Settings)}
    settings = Settings(**{name: types[name](**values) for name, values in sections.items()})
    validate(settings)
    return settings


def _text_of(env: Env, values: Mapping[str, str]) -> str:
    if env.secret and (path := values.get(f"{env.name}_FILE")):
        return Path(path).read_text(encoding="utf-8").strip()
    return values.get(env.name, "").strip()


def _parse(kind: type, text: str) -> Any:
    if kind is bool:
        lowered = text.lower()
        if lowered not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
            raise ValueError(f"'{text}' is neither true nor false")
        return lowered in {"true", "1", "yes", "on"}
    if kind is int:
        if not re.fullmatch(r"[0-9]{1,12}", text):
            raise ValueError(f"'{text}' is not a whole number")
        return int(text)
    if kind is Duration:
        return Duration.parse(text)
    if kind is Path:
        # A shell does this, `.env` and compose files do not.
        return Path(text).expanduser()
    return kind(text)


def validate(settings: Settings) -> None:
    """Check what one field alone cannot tell. Raises StartupError with all problems."""
    server, auth, stream = settings.server, settings.auth, settings.stream
    checks = [
        (1 <= server.port <= 65535, "SERVER_PORT: a port lies between 1 and 65535"),
        (1 <= settings.database.port <= 65535, "DB_PORT: a port lies between 1 and 65535"),
        (1 <= server.workers <= 64, "SERVER_WORKERS: between 1 and 64"),
        (server.environment in {"development", "production"}, "ENVIRONMENT: development or production"),
        (server.log_level in {"debug", "info", "warning", "error"}, "LOG_LEVEL: debug, info, warning or error"),
        (server.log_format in {"", "text", "json"}, "LOG_FORMAT: text or json"),
        (settings.database.max_connections >= 4, "DB_MAX_OPEN_CONNS: at least 4 (requests, writer, listener, leases)"),
        (
            settings.database.sslmode in {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
            "DB_SSLMODE: disable, allow, prefer, require, verify-ca or verify-full",
        ),
        (
            not auth.jwt_secret or len(auth.jwt_secret.encode()) >= 32,
            "JWT_SECRET: 32 characters or more, e.g. from: openssl rand -hex 32",
        ),
        (
            bool(auth.jwt_secret) or not settings.production,
            "JWT_SECRET: required in production, e.g. from: openssl rand -hex 32",
        ),
        (
            settings.model.service_protocol in {"auto", "ndjson", "openai"},
            "LLM_SERVICE_PROTOCOL: auto, ndjson or openai",
        ),
        (
            not settings.model.service_url or settings.model.service_url.startswith(("http://", "https://")),
            "LLM_SERVICE_URL: begins with http:// or https://",
        ),
        (
            1 <= auth.access_token_expiry <= LONGEST_ACCESS_TOKEN,
            "JWT_ACCESS_TOKEN_EXPIRY: between one second and seven days (168h)",
        ),
        (stream.lease >= 2 * stream.lease_renewal, "LEASE: at least twice LEASE_RENEWAL"),
        (0.001 <= stream.round <= 1, "STREAM_ROUND: between 1ms and 1s"),
    ]
    problems = [problem for good, problem in checks if not good] + list(_too_small(settings))
    if problems:
        raise StartupError("Some settings are wrong:\n  " + "\n  ".join(problems))


def _too_small(settings: Settings) -> Iterator[str]:
    """Nothing works with no time and no room, and nowhere does zero mean "without a limit"."""
    for field in fields():
        value = getattr(getattr(settings, field.section), field.attribute)
        if field.kind in {int, Duration} and value <= 0 and field.env.name not in _MAY_BE_ZERO:
            yield f"{field.env.name}: more than zero"
