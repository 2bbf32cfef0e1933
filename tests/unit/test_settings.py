"""Settings: every one has a default and a line in the README, and a bad one is named with what it takes."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from gateway.asgi import master_keys
from gateway.egress import read_policy
from gateway.errors import ConfigError
from gateway.machine import ensure_master_key
from gateway.retries import CALLBACK_SCHEDULE
from gateway.secrets import new_master_key, read_master_keys
from gateway.settings import BOUNDS, SETTINGS, Setting, Settings, read_settings
from gateway.store.connection import connect

ROOT = Path(__file__).parent.parent.parent
FIELDS = {field.name for field in msgspec.structs.fields(Settings)}


def refusal(name: str, value: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_settings({name: value})
    return caught.value.message


def test_without_any_variable_every_setting_has_its_default() -> None:
    """An empty environment is enough: embedded Valkey, loopback, fsync, the standard's schedule."""
    settings = read_settings({})
    assert settings.embedded
    assert (settings.host, settings.port, settings.durability) == ("127.0.0.1", 8080, "fsync")
    assert (settings.config, settings.data_dir) == (Path("gateway.yaml"), Path(".gateway"))
    assert settings.callback_schedule == CALLBACK_SCHEDULE
    assert (settings.master_keys, settings.lease, settings.max_body) == ((), 15, 1_048_576)


def test_every_setting_is_a_field_and_every_field_a_setting() -> None:
    """The table of variables and the typed settings name the same things."""
    assert {row.name.removeprefix("GATEWAY_").lower() for row in SETTINGS} == FIELDS
    assert set(BOUNDS) <= FIELDS


@pytest.mark.parametrize("row", SETTINGS, ids=[row.name for row in SETTINGS])
def test_every_setting_stands_in_the_readme(row: Setting) -> None:
    """The README's table has a line for each variable, with its default."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| `{row.name}` |")]
    assert len(lines) == 1
    assert f"| `{row.default}` |" in lines[0] or (not row.default and "| unset |" in lines[0])


def test_the_readme_names_no_setting_that_is_not_there() -> None:
    """What the README promises to read is read."""
    named = set(re.findall(r"GATEWAY_[A-Z_]+[A-Z]", (ROOT / "README.md").read_text()))
    assert named <= {row.name for row in SETTINGS} | {"GATEWAY_SEND_SECRET"}


def test_values_are_read_as_what_they_are() -> None:
    """Numbers, paths and lists come typed; spaces around them don't count, and empty means unset."""
    environ = {
        "GATEWAY_PORT": " 9000 ",
        "GATEWAY_LEASE": "2.5",
        "GATEWAY_DATA_DIR": "/var/lib/gateway",
        "GATEWAY_CALLBACK_SCHEDULE": "0, 1.5,3",
        "GATEWAY_MASTER_KEYS": "new, old",
        "GATEWAY_REDIS_URL": "redis://127.0.0.1",
        "GATEWAY_HOST": "",
    }
    settings = read_settings(environ)
    assert (settings.port, settings.lease, settings.data_dir) == (9000, 2.5, Path("/var/lib/gateway"))
    assert (settings.callback_schedule, settings.master_keys) == ((0, 1.5, 3), ("new", "old"))
    assert (settings.embedded, settings.host) == (False, "127.0.0.1")


BAD = [
    ("GATEWAY_PORT", "http"),
    ("GATEWAY_PORT", "80.5"),
    ("GATEWAY_PORT", "70000"),
    ("GATEWAY_PORT", "-1"),
    ("GATEWAY_DURABILITY", "always"),
    ("GATEWAY_LOG_FORMAT", "xml"),
    ("GATEWAY_LOG_LEVEL", "INFO"),
    ("GATEWAY_RECEIVERS", "0"),
    ("GATEWAY_WORKERS", "two"),
    ("GATEWAY_CONCURRENCY", "0"),
    ("GATEWAY_LEASE", "15s"),
    ("GATEWAY_LEASE", "nan"),
    ("GATEWAY_GRACE", "-1"),
    ("GATEWAY_MAX_BODY", "26214401"),
    ("GATEWAY_BODY_TIMEOUT", "0"),
    ("GATEWAY_ACCEPT_TIMEOUT", "inf"),
    ("GATEWAY_MAX_QUEUE", "1e3.5"),
    ("GATEWAY_MAX_OUTPUT", "1"),
    ("GATEWAY_MAX_LOST", "0"),
    ("GATEWAY_DEDUPE_DAYS", "0"),
    ("GATEWAY_CALLBACK_SCHEDULE", "0,soon"),
    ("GATEWAY_CALLBACK_SCHEDULE", ","),
    ("GATEWAY_CALLBACK_SCHEDULE", "0,nan"),
    ("GATEWAY_CALLBACK_SCHEDULE", "0,-5"),
    ("GATEWAY_CALLBACK_SCHEDULE", "0,inf"),
    ("GATEWAY_CALLBACK_TIMEOUT", "1000"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_setting_is_one_clear_line(name: str, value: str) -> None:
    """A value that can't be used is one line that begins with the variable's name."""
    message = refusal(name, value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("field", sorted(BOUNDS))
def test_bounds_are_inclusive(field: str) -> None:
    """The least and the most that a setting takes are taken, and what is beyond is refused."""
    low, high = BOUNDS[field]
    name = f"GATEWAY_{field.upper()}"
    for value in (low, high):
        assert getattr(read_settings({name: f"{value:.10g}".replace("1e+12", "1000000000000")}), field) == value
    assert refusal(name, str(int(high) + 1)).startswith(f"{name}: ")


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port", "nonsense"])
def test_a_bad_address_of_the_store_is_named(url: str) -> None:
    """An address that no server can have is told with the variable and an example."""
    with pytest.raises(ConfigError, match=r"GATEWAY_REDIS_URL: .*redis://user"):
        connect(url)


@pytest.mark.parametrize("networks", ["10.0.0.0/33", "localhost", "10.0.0.1/8,"])
def test_a_bad_network_is_named(networks: str) -> None:
    """A network that is none is told with the variable."""
    with pytest.raises(ConfigError, match="GATEWAY_EGRESS_ALLOW"):
        read_policy(networks)


def test_a_bad_master_key_is_named_and_not_shown(tmp_path: Path) -> None:
    """A master key of another form is told by its number; so is one kept in the data directory."""
    settings = read_settings({"GATEWAY_MASTER_KEYS": "hunter2", "GATEWAY_DATA_DIR": str(tmp_path)})
    with pytest.raises(ConfigError, match="GATEWAY_MASTER_KEYS: key 1") as caught:
        master_keys(settings)
    assert "hunter2" not in caught.value.message


def in_folder(tmp_path: Path) -> Settings:
    return read_settings({"GATEWAY_DATA_DIR": str(tmp_path)})


def test_a_master_key_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    """The refusal says which file, and what to do; the folder's several keys are a line each, the newest first."""
    kept, keys = tmp_path / "master.key", [new_master_key(), new_master_key()]
    kept.write_text("\n".join(keys) + "\n")
    for mode in (0o604, 0o602, 0o666):
        kept.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600") as caught:
            master_keys(in_folder(tmp_path))
        assert not any(key in caught.value.message for key in keys)
    kept.chmod(0o600)
    assert master_keys(in_folder(tmp_path)) == read_master_keys(keys)
    kept.write_text("")
    with pytest.raises(ConfigError, match="key 1"):
        master_keys(in_folder(tmp_path))


def test_a_master_key_is_made_once_whole_and_private(tmp_path: Path) -> None:
    """However many make one at the same time, under any umask: one key, whole, with mode 0600, and nothing beside it."""
    before = os.umask(0)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda _: (ensure_master_key(in_folder(tmp_path)), master_keys(in_folder(tmp_path))), range(8))
            )
    finally:
        os.umask(before)
    assert len({keys for _, keys in found}) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["master.key"]
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    ensure_master_key(in_folder(tmp_path))
    assert master_keys(in_folder(tmp_path)) == found[0][1]
