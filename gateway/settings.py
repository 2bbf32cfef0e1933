"""Settings: what the environment says, read once at the door and handed down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from gateway.errors import ConfigError

Durability = Literal["fsync", "everysec", "replica"]
LogFormat = Literal["auto", "json", "console"]


class Setting(NamedTuple):
    """One environment variable: its name, its default as text, and a sentence for the README."""

    name: str
    default: str
    help: str


SETTINGS: tuple[Setting, ...] = (
    Setting("GATEWAY_REDIS_URL", "", "Valkey or Redis server to use; unset, an embedded Valkey is used"),
    Setting("GATEWAY_DATA_DIR", "./.gateway", "where the embedded Valkey and generated keys live"),
    Setting("GATEWAY_CONFIG", "./gateway.yaml", "apps, triggers and workflows"),
    Setting("GATEWAY_HOST", "127.0.0.1", "address the receiver listens on"),
    Setting("GATEWAY_PORT", "8080", "port the receiver listens on"),
    Setting("GATEWAY_PUBLIC_URL", "", "where the world reaches the receiver, for links; unset, http://host:port"),
    Setting(
        "GATEWAY_TRUSTED_PROXIES",
        "",
        "networks of your own proxies, comma separated: only their X-Forwarded-For says where a request comes from",
    ),
    Setting(
        "GATEWAY_MASTER_KEYS",
        "",
        "keys that encrypt stored secrets, newest first, comma separated, each 32 bytes in base64",
    ),
    Setting("GATEWAY_DURABILITY", "fsync", "what a 2xx promises: `fsync`, `everysec` or `replica`"),
    Setting("GATEWAY_RECEIVERS", "1", "receiver processes of `gateway up` and `gateway serve`"),
    Setting("GATEWAY_WORKERS", "1", "worker processes of `gateway up`"),
    Setting("GATEWAY_CONCURRENCY", "100", "runs that one worker process works on side by side"),
    Setting("GATEWAY_LEASE", "15", "seconds after which a silent worker's runs go to another"),
    Setting("GATEWAY_GRACE", "10", "seconds a stopping worker gives its running steps"),
    Setting(
        "GATEWAY_EGRESS_ALLOW", "", "private networks that callbacks, http and model steps may reach, comma separated"
    ),
    Setting(
        "GATEWAY_EGRESS_PROXY",
        "",
        "HTTP proxy that all these requests go through, `http://[user:password@]host:port`; unset, none:"
        " `HTTPS_PROXY` and its like are never read",
    ),
    Setting("GATEWAY_LOG_FORMAT", "auto", "`json`, `console`, or `auto`: console on a terminal"),
    Setting("GATEWAY_LOG_LEVEL", "info", "`debug`, `info`, `warning` or `error`"),
    Setting("GATEWAY_MAX_BODY", "1048576", "bytes a request body may have, at most 26214400"),
    Setting("GATEWAY_BODY_TIMEOUT", "10", "seconds a request body may take to arrive"),
    Setting("GATEWAY_ACCEPT_TIMEOUT", "3", "seconds to store an event before the answer is 503"),
    Setting("GATEWAY_MAX_QUEUE", "1000000", "runs that may wait before the answer is 503"),
    Setting("GATEWAY_MAX_WAITERS", "10000", "requests of one receiver that may wait for runs before the answer is 503"),
    Setting("GATEWAY_MAX_OUTPUT", "1048576", "bytes a step's output may have"),
    Setting("GATEWAY_PYTHON_MODULES", "", "modules that `python` steps may use, comma separated; unset, any"),
    Setting("GATEWAY_SHELL_PATH", "", "PATH of `shell` steps; unset, the worker's own"),
    Setting(
        "GATEWAY_CHILD_MEMORY", "0", "bytes of address space for a process of a `shell` or isolated step; 0 = no limit"
    ),
    Setting("GATEWAY_MAX_LOST", "5", "workers in a row that may die on one run before its step is set aside"),
    Setting("GATEWAY_MAX_DEPTH", "16", "runs that may follow each other in a chain, here and across gateways"),
    Setting("GATEWAY_DEDUPE_DAYS", "7", "days a delivery is remembered, so that it is not run again"),
    Setting("GATEWAY_KEEP_DAYS", "30", "days that ended runs are kept, with their events and callbacks; 0 = for ever"),
    Setting("GATEWAY_KEEP_RUNS", "0", "how many of the newest ended runs are kept; 0 = all"),
    Setting(
        "GATEWAY_ARCHIVE_DIR", "", "folder where what is removed is written to first, as NDJSON in gzip; unset, none is"
    ),
    Setting(
        "GATEWAY_TRUSTED_WORKFLOWS",
        "",
        "workflows that may run code and send secrets whoever uploads them, by name, comma separated",
    ),
    Setting(
        "GATEWAY_STEP_COSTS",
        "http=1,model=1,python=1,shell=1,transform=0",
        "credits that one attempt of a step costs, by kind",
    ),
    Setting("GATEWAY_MODEL_URL", "", "base URL of the OpenAI-compatible provider of model steps that name no `url`"),
    Setting("GATEWAY_MODEL_KEY", "", "key for GATEWAY_MODEL_URL; it is sent nowhere else"),
    Setting("GATEWAY_MODEL_CREDITS", "1", "credits that 1000 tokens of a model step cost, besides its attempt"),
    Setting(
        "GATEWAY_CALLBACK_SCHEDULE",
        "0,5,300,1800,7200,18000,36000,50400,72000,86400",
        "seconds before each attempt of a callback",
    ),
    Setting(
        "GATEWAY_CALLBACK_SIZE", "20000", "bytes of a callback; what makes it larger goes by a link, good for 7 days"
    ),
    Setting("GATEWAY_CALLBACK_TIMEOUT", "15", "seconds one attempt of a callback may take in all"),
    Setting("GATEWAY_CALLBACK_SHARE", "4", "attempts that one endpoint has at once, over all workers"),
    Setting("GATEWAY_CALLBACK_FAILURES", "10", "failures in a row after which an endpoint is only probed now and then"),
    Setting(
        "GATEWAY_CALLBACK_PAUSE",
        "30",
        "seconds before the first probe; each one that fails doubles it, to half an hour",
    ),
    Setting("GATEWAY_CALLBACK_PATIENCE", "5", "days after which an endpoint that did nothing but fail is disabled"),
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, typed. Seconds and bytes unless a name says otherwise."""

    redis_url: str
    data_dir: Path
    config: Path
    host: str
    port: int
    public_url: str
    trusted_proxies: tuple[str, ...]
    master_keys: tuple[str, ...]
    durability: Durability
    receivers: int
    workers: int
    concurrency: int
    lease: float
    grace: float
    egress_allow: str
    egress_proxy: str
    log_format: LogFormat
    log_level: Literal["debug", "info", "warning", "error"]
    max_body: int
    body_timeout: float
    accept_timeout: float
    max_queue: int
    max_waiters: int
    max_output: int
    python_modules: tuple[str, ...]
    shell_path: str
    child_memory: int
    max_lost: int
    max_depth: int
    dedupe_days: float
    keep_days: float
    keep_runs: int
    archive_dir: str
    trusted_workflows: tuple[str, ...]
    step_costs: str
    model_url: str
    model_key: str
    model_credits: float
    callback_schedule: tuple[float, ...]
    callback_size: int
    callback_timeout: float
    callback_share: int
    callback_failures: int
    callback_pause: float
    callback_patience: float

    @property
    def address(self) -> str:
        """The receiver's URL as people are given it, without a slash at its end."""
        if self.public_url:
            return self.public_url.rstrip("/")
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def embedded(self) -> bool:
        """Whether the embedded Valkey is used."""
        return not self.redis_url


LISTS = (
    "GATEWAY_MASTER_KEYS",
    "GATEWAY_TRUSTED_PROXIES",
    "GATEWAY_TRUSTED_WORKFLOWS",
    "GATEWAY_CALLBACK_SCHEDULE",
    "GATEWAY_PYTHON_MODULES",
)
LONGEST_WAIT = 31_536_000
BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "receivers": (1, 64),
    "workers": (1, 256),
    "concurrency": (1, 10_000),
    "lease": (1, 3600),
    "grace": (0, 3600),
    "max_body": (1, 26_214_400),
    "body_timeout": (0.1, 300),
    "accept_timeout": (0.1, 30),
    "max_queue": (1, 1e12),
    "max_waiters": (0, 1_000_000),
    "max_output": (1024, 268_435_456),
    "child_memory": (0, 1e12),
    "max_lost": (1, 1000),
    "max_depth": (0, 1000),
    "dedupe_days": (0.001, 3650),
    "keep_days": (0, 36_500),
    "keep_runs": (0, 1e12),
    "callback_size": (2000, 26_214_400),
    "callback_timeout": (0.1, 300),
    "callback_share": (1, 1000),
    "callback_failures": (1, 1_000_000),
    "callback_pause": (0.1, 86_400),
    "callback_patience": (0.00001, 3650),
    "model_credits": (0, 1_000_000),
}


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every setting from the environment, or from a mapping given instead.

    Raises ConfigError naming the variable that can't be used, its value, and what it takes.
    """
    values = os.environ if environ is None else environ
    fields = {row.name.removeprefix("GATEWAY_").lower(): _text(row, values) for row in SETTINGS}
    try:
        settings = msgspec.convert(fields, Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error))) from None
    _check_bounds(settings)
    return settings


def _text(row: Setting, values: Mapping[str, str]) -> object:
    text = values.get(row.name, "").strip() or row.default
    if row.name in LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _path(kind: type, value: object) -> object:
    return Path(str(value)) if kind is Path else value


def _explain(message: str) -> str:
    what, _, where = message.partition(" - at `$.")
    name = "GATEWAY_" + where.split("[")[0].rstrip("`").upper()
    return f"{name}: {what[:1].lower()}{what[1:]}. Change the environment variable, or unset it for the default."


def _check_bounds(settings: Settings) -> None:
    for field, (low, high) in BOUNDS.items():
        value = getattr(settings, field)
        if not low <= value <= high:
            message = f"GATEWAY_{field.upper()}: {value:g} is out of range, it takes {low:g} to {high:g}."
            raise ConfigError(message)
    if settings.public_url and not settings.public_url.startswith(("https://", "http://")):
        message = f"GATEWAY_PUBLIC_URL: {settings.public_url!r} is no URL, e.g. https://gateway.example."
        raise ConfigError(message)
    if not settings.callback_schedule or not all(0 <= wait <= LONGEST_WAIT for wait in settings.callback_schedule):
        message = (
            f"GATEWAY_CALLBACK_SCHEDULE: give one or more numbers of seconds from 0 to {LONGEST_WAIT}, e.g. `0,5,300`."
        )
        raise ConfigError(message)
