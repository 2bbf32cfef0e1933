"""Attacks over real sockets: what is not the sender's own, fresh and whole request is not let in. Zero accepted of all.

Each list of forgeries goes to doors that take the true request, before and after: a door that is shut to all proves nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.signatures import Request, read_scheme, sign
from gateway.store.connection import Redis
from tests.tools import KEYS, all_events, connected, publish, receiving, settings_for, tell
from tests.tools_raw import write

HEX_SECRET, OTHER_SECRET = "a secret of the attacked app", "a secret of another app"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"workflow_id": 15, "task": "caf\xc3\xa9"}'
OPEN_BODY = b'{"workflow_id": 15}'
TRIGGERS = "triggers: [{name: all, workflow: 15}]"
FILE = f"""
apps:
  - {{id: 1, name: hex, token: token-of-hex, verify: {{scheme: github, secrets: [{{env: ATTACKED}}]}}, {TRIGGERS}}}
  - {{id: 2, name: stamped, verify: {{scheme: standard-webhooks, secrets: [{{env: STAMPED}}]}}, {TRIGGERS}}}
  - {{id: 3, name: stripe, verify: {{scheme: stripe, secrets: [{{env: ATTACKED}}]}}, {TRIGGERS}}}
  - {{id: 4, name: other, verify: {{scheme: github, secrets: [{{env: OTHER}}]}}, {TRIGGERS}}}
  - {{id: 5, name: open, adapter: direct, verify: none, max_body: 2000}}
  - {{id: 6, name: bare, {TRIGGERS}}}
  - {{id: 7, name: empty, verify: {{scheme: github, secrets: [{{env: EMPTY}}]}}, {TRIGGERS}}}
  - {{id: 8, name: unset, verify: {{scheme: github, secrets: [{{env: NO_SUCH_VARIABLE}}]}}, {TRIGGERS}}}
  - {{id: 10, name: timed, verify: {{scheme: zoom, secrets: [{{env: ATTACKED}}]}}, {TRIGGERS}}}
  - {{id: 11, name: idless, verify: {{scheme: meta, secrets: [{{env: ATTACKED}}]}}, {TRIGGERS}}}
  - {{id: 9, name: gone, disabled: true, verify: {{scheme: github, secrets: [{{env: ATTACKED}}]}}, {TRIGGERS}}}
workflows:
  - {{id: 15, name: greet}}
"""
SCHEMES = {
    1: ("github", HEX_SECRET),
    2: ("standard-webhooks", WHSEC),
    3: ("stripe", HEX_SECRET),
    10: ("zoom", HEX_SECRET),
    11: ("meta", HEX_SECRET),
}
SIGNATURES = {1: "x-hub-signature-256", 2: "webhook-signature", 3: "stripe-signature"}
Headers = list[tuple[str, str]]
KIND = ("content-type", "application/json")


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ATTACKED", HEX_SECRET), ("OTHER", OTHER_SECRET), ("STAMPED", WHSEC), ("EMPTY", "")):
        monkeypatch.setenv(name, value)


class Forgery(NamedTuple):
    """One request that nobody may let in."""

    what: str
    app: object
    headers: Headers
    body: bytes = BODY
    method: str = "POST"


class Door:
    """A running receiver, attacked through plain sockets."""

    def __init__(self, port: int, redis: Redis) -> None:
        self.port = port
        self.redis = redis

    async def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """Send these bytes, and give all that comes back until the other side hangs up, or nothing comes any more."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if end:
            writer.write_eof()
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(5):
                while chunk := await reader.read(65_536):
                    answer += chunk
        writer.close()
        return answer

    async def send(self, forgery: Forgery) -> int:
        """Send one request as it is; the status of its answer."""
        target = f"/api/v1/webhooks/{forgery.app}" if not str(forgery.app).startswith("/") else str(forgery.app)
        answer = await self.raw(write(forgery.method, target, forgery.headers, forgery.body))
        return int(answer.split(b" ", 2)[1])

    async def events(self) -> int:
        return len(await all_events(self.redis))


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, **changes: object) -> AsyncIterator[Door]:
    async with connected(url) as redis:
        await publish(redis, FILE)
        async with receiving(settings_for(url, folder, **changes)) as port:
            yield Door(port, redis)


def true_headers(app: int, body: bytes = BODY, *, now: float | None = None, delivery: str = "d1") -> Headers:
    """The headers of the app's own sender."""
    scheme, secret = SCHEMES[app]
    request = Request("POST", f"/api/v1/webhooks/{app}", (KIND,), body)
    made = sign(read_scheme(scheme, "scheme"), secret, request, time.time() if now is None else now, delivery)
    return [KIND, *((name.lower(), value) for name, value in made)]


def with_value(headers: Headers, name: str, *values: str) -> Headers:
    """The headers with these lines in place of that one."""
    return [pair for pair in headers if pair[0] != name] + [(name, value) for value in values]


def signature_of(app: int, headers: Headers) -> tuple[str, bytes]:
    """What stands before the signature in its header, and the signature's bytes."""
    value = dict(headers)[SIGNATURES[app]]
    if app == 2:
        return "v1,", base64.b64decode(value.removeprefix("v1,"))
    prefix, _, digits = value.rpartition("=")
    return prefix + "=", bytes.fromhex(digits)


def encode(app: int, digest: bytes) -> str:
    return base64.b64encode(digest).decode() if app == 2 else digest.hex()


async def refuse_all(door: Door, app: int, forgeries: list[Forgery], statuses: tuple[int, ...] = (401,)) -> None:
    """The true request is taken, all of these are not, and then another true one is."""
    assert await door.send(Forgery("before", app, true_headers(app, delivery="before"))) == 200
    before = await door.events()
    for forgery in forgeries:
        assert await door.send(forgery) in statuses, forgery.what
    assert await door.events() == before
    other = BODY.replace(b"caf", b"tea")
    assert await door.send(Forgery("after", app, true_headers(app, other, delivery="after"), other)) == 200


# ---- S1: signatures


@pytest.mark.parametrize("app", [1, 2, 3])
def test_no_changed_signature_is_let_in(store: str, tmp_path: Path, app: int) -> None:
    """Each flipped bit, each prefix, longer, empty, doubled, a thousand of them, another spelling: refused, all with 401."""
    headers = true_headers(app)
    lead, digest = signature_of(app, headers)
    name = SIGNATURES[app]
    flipped = [
        digest[: bit // 8] + bytes([digest[bit // 8] ^ 1 << bit % 8]) + digest[bit // 8 + 1 :] for bit in range(256)
    ]
    values = [lead + encode(app, each) for each in flipped]
    values += [lead + encode(app, digest[:length]) for length in range(32)]
    good = encode(app, digest)
    values += [
        lead + good + encode(app, b"\0"),
        good + lead,
        good,
        "",
        lead,
        f"v2={good}",
        f"sha1={good}",
        f'"{lead}{good}"',
    ]
    values += [lead + good[:-1], lead + good + "!", lead + good[:20] + " " + good[20:], lead + "é" + good[1:]]
    forgeries = [Forgery(value[:80], app, with_value(headers, name, value)) for value in values]
    forgeries += [
        Forgery("no header", app, with_value(headers, name)),
        Forgery("two headers", app, with_value(headers, name, lead + good, lead + good)),
        Forgery("wrong one beside", app, with_value(headers, name, lead + encode(app, flipped[0]), lead + good)),
    ]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            await refuse_all(door, app, forgeries)

    tell(story())


def test_a_thousand_candidates_are_no_lottery(store: str, tmp_path: Path) -> None:
    """Where a sender may give several signatures, a heap of them is refused, even with the true one in it."""
    forgeries = []
    for app, join in ((2, " "), (3, ",")):
        headers = true_headers(app)
        value = dict(headers)[SIGNATURES[app]]
        wrong = join.join("v1," + encode(2, bytes(32)) if app == 2 else "v1=" + "0" * 64 for _ in range(1000))
        forgeries.append(Forgery("many", app, with_value(headers, SIGNATURES[app], f"{wrong}{join}{value}")))
        forgeries.append(Forgery("wrong ones", app, with_value(headers, SIGNATURES[app], wrong)))

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for forgery in forgeries:
                assert await door.send(forgery) in (400, 401), forgery.what
            assert await door.events() == 0

    tell(story())


def test_another_app_s_secret_opens_no_door(store: str, tmp_path: Path) -> None:
    """What is rightly signed for one app is refused at each other one, by id as by token."""
    other = [KIND, ("x-hub-signature-256", dict(true_headers(1))["x-hub-signature-256"])]
    foreign = sign(read_scheme("github", ""), OTHER_SECRET, Request("POST", "/", (KIND,), BODY), 0, "d1")
    forgeries = [Forgery(f"app {app}", app, other) for app in (2, 3, 4, 6, 7, 8)]
    forgeries += [Forgery("foreign", app, [KIND, *foreign]) for app in (1, "token-of-hex")]
    forgeries += [Forgery(f"empty secret {app}", app, [KIND, *_signed_with_nothing()]) for app in (6, 7, 8)]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            await refuse_all(door, 1, forgeries)

    tell(story())


def _signed_with_nothing() -> Headers:
    return [("x-hub-signature-256", "sha256=" + hmac.new(b"", BODY, hashlib.sha256).hexdigest())]


@pytest.mark.parametrize("app", [2, 3])
def test_no_stale_or_strange_time_is_let_in(store: str, tmp_path: Path, app: int) -> None:
    """Rightly signed but too old or too early, or with a time that is none; and a time that was changed after signing."""
    now = time.time()
    forgeries = [Forgery(f"{age} s", app, true_headers(app, now=now + age)) for age in (-310, 310, -86_400, 86_400)]
    headers = true_headers(app)
    stamp = str(int(now))
    strange = [
        "-1",
        "1e300",
        "",
        " ",
        "１８００００００００",
        stamp + ".5",
        "0x6",
        f"+{stamp}",
        "9" * 400,
        "NaN",
        str(int(now) + 1),
    ]
    for text in strange:
        if app == 2:
            changed = with_value(headers, "webhook-timestamp", text.encode("utf-8").decode("latin-1"))
        else:
            _, digest = signature_of(app, headers)
            value = f"t={text},v1={digest.hex()}"
            changed = with_value(headers, "stripe-signature", value.encode("utf-8").decode("latin-1"))
        forgeries.append(Forgery(f"time {text!r}", app, changed))
    forgeries.append(
        Forgery("no time", app, [pair for pair in headers if pair[0] not in ("webhook-timestamp", "stripe-signature")])
    )

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            await refuse_all(door, app, forgeries)

    tell(story())


# ---- S2: bodies


@pytest.mark.parametrize("app", [1, 2, 3])
def test_no_changed_body_is_let_in(store: str, tmp_path: Path, app: int) -> None:
    """The bytes count: one changed, one more, written anew, other line ends, a mark in front, another encoding, none."""
    document = json.loads(BODY)
    bodies = [BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :] for at in range(len(BODY))]
    bodies += [
        json.dumps(document).encode(),
        json.dumps(document, indent=1).encode(),
        BODY + b"\n",
        BODY + b"\r\n",
        b" " + BODY,
    ]
    bodies += [
        b"\xef\xbb\xbf" + BODY,
        BODY.decode().encode("utf-16"),
        BODY.decode().encode("latin-1"),
        b"",
        BODY + BODY,
        b"{}",
    ]
    bodies += [BODY.replace(b"}", b', "workflow_id": 15}')]
    forgeries = [Forgery(repr(body), app, true_headers(app), body) for body in bodies if body != BODY]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            await refuse_all(door, app, forgeries)

    tell(story())


# ---- S3: no secret, no app


def test_apps_that_can_not_verify_refuse_everything(store: str, tmp_path: Path) -> None:
    """No `verify`, an empty secret, none at all: one and the same 401; disabled is 403 and unknown 404, signed or not."""
    signed = true_headers(1)
    doors: list[tuple[object, int]] = [
        (6, 401),
        (7, 401),
        (8, 401),
        (9, 403),
        (99, 404),
        ("hex", 404),
        ("TOKEN-OF-HEX", 404),
    ]
    forgeries = [(Forgery(str(app), app, headers), status) for app, status in doors for headers in (signed, [KIND])]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for forgery, status in forgeries:
                assert await door.send(forgery) == status, forgery.what
            answers = {await door.raw(write("POST", f"/api/v1/webhooks/{app}", [KIND], BODY)) for app in (1, 6, 7, 8)}
            assert len({answer.partition(b"\r\n\r\n")[2] for answer in answers}) == 1
            assert await door.events() == 0

    tell(story())


# ---- S4: replays


def test_no_replay_starts_a_run(store: str, tmp_path: Path) -> None:
    """The same request again, under another id or key, for another host, at another app or spelling of the path, by
    another method: nothing new is stored."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for app in (1, 2, 10, 11):
                headers = true_headers(app)
                first = Forgery("first", app, headers)
                assert await door.send(first) == 200
                before = await door.events()
                again = [
                    first,
                    first._replace(headers=[*headers, ("idempotency-key", "new")]),
                    first._replace(headers=[*headers, ("x-forwarded-host", "evil.example")]),
                    first._replace(headers=[*headers, ("x-original-url", "/api/v1/webhooks/5")]),
                    first._replace(headers=[*headers, ("x-http-method-override", "PUT")]),
                    *(first._replace(method=method) for method in ("PUT", "PATCH", "DELETE", "GET", "TRACE", "post")),
                    *(first._replace(app=f"/api/v1/webhooks/{path}") for path in spellings(app)),
                    *(first._replace(app=other) for other in (1, 2, 3, 4, 6, 9) if other != app),
                ]
                if app == 1:
                    ids = with_value(headers, "x-github-delivery", "another")
                    again += [first._replace(headers=ids), first._replace(app="token-of-hex")]
                for forgery in again:
                    await door.send(forgery)
                    assert await door.events() == before, forgery
            assert int(await door.redis.get(KEYS.named("runs:last"))) == 4

    tell(story())


def spellings(app: int) -> list[str]:
    """Ways to write an app's path that must lead nowhere else, and to none without its signature."""
    return [
        *(f"{app}/", f"/{app}", f"{app}//", f"./{app}", f"5/../{app}", f"{app}/..;/5", f"{app}%2f", f"{app}%2f..%2f5"),
        *(
            f"0{app}",
            f"+{app}",
            f"{app}.0",
            f"{app}.json",
            f"{app};5",
            f"{app}%00",
            f"{app}%0d%0a",
            f" {app}",
            f"%3{app}",
        ),
        *(f"{app}?app=5", f"{app}#5", f"{app}/form-token", f"{app}/configs", "..%2f..%2flivez"),
    ]


# ---- what reaches us by HTTP's own ambiguities


INNER = (
    b"POST /api/v1/webhooks/5 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(OPEN_BODY)
)
SMUGGLED = INNER + OPEN_BODY
CHUNKED = b"0\r\n\r\n" + SMUGGLED


def start(*lines: str, version: str = "1.1") -> bytes:
    """The head of an unsigned request to an app that verifies."""
    head = [f"POST /api/v1/webhooks/1 HTTP/{version}", "host: x", "content-type: application/json", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


AMBIGUOUS = {
    "length and chunks": start(f"content-length: {len(CHUNKED)}", "transfer-encoding: chunked") + CHUNKED,
    "chunks and length": start("transfer-encoding: chunked", f"content-length: {len(CHUNKED)}") + CHUNKED,
    "two lengths": start("content-length: 0", f"content-length: {len(SMUGGLED)}") + SMUGGLED,
    "a list of lengths": start(f"content-length: {len(SMUGGLED)}, {len(SMUGGLED)}") + SMUGGLED,
    "a length with a sign": start(f"content-length: +{len(SMUGGLED)}") + SMUGGLED,
    "a length in hex": start(f"content-length: {len(SMUGGLED):#x}") + SMUGGLED,
    "a length of thousands of digits": start("content-length: " + str(len(SMUGGLED)).zfill(5000)) + SMUGGLED,
    "a negative length": start("content-length: -1") + SMUGGLED,
    "chunks of another kind": start("transfer-encoding: xchunked") + CHUNKED,
    "chunks twice": start("transfer-encoding: chunked", "transfer-encoding: identity") + CHUNKED,
    "a blank before the colon": start(f"content-length : {len(SMUGGLED)}") + SMUGGLED,
    "a folded line": start(f"x: y\r\n content-length: {len(SMUGGLED)}") + SMUGGLED,
    "a bare line feed": start(f"x: y\ncontent-length: {len(SMUGGLED)}") + SMUGGLED,
    "a bad chunk": start("transfer-encoding: chunked") + b"0x1\r\n{\r\n" + CHUNKED,
    "a chunk that is too long": start("transfer-encoding: chunked") + b"1\r\n{}\r\n" + CHUNKED,
    "chunks of old": start("transfer-encoding: chunked", version="1.0") + CHUNKED,
    "a null in a name": start("x\x00y: z", f"content-length: {len(SMUGGLED)}") + SMUGGLED,
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_no_second_request_hides_in_a_first(store: str, tmp_path: Path, what: str) -> None:
    """Where it can be doubted how long a request is, what follows is never taken for one more, though anybody might
    have sent that: it is refused, or is one unsigned body."""

    async def story() -> None:
        async with opened(store, tmp_path, body_timeout=0.3) as door:
            answer = await door.raw(AMBIGUOUS[what], end=True)
            assert await door.events() == 0, answer
            statuses = [line.split(b" ")[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
            assert set(statuses) <= {b"400", b"401", b"408"}, answer
            assert len(statuses) <= 1, answer

    tell(story())


def test_heads_beyond_their_bounds_are_not_gathered(store: str, tmp_path: Path) -> None:
    """A header without end, a name of a megabyte, thousands of lines: a 400 before anything looks at them, or the end of
    the connection. What senders and proxies add is far less, and taken."""
    many = [(f"x-{number}", "y" * 100) for number in range(150)]
    attacks = {
        "an endless value": b"POST /api/v1/webhooks/5 HTTP/1.1\r\nx: " + b"y" * 2_000_000,
        "a large name": write("POST", "/api/v1/webhooks/5", [KIND, ("x" * 100_000, "y")], OPEN_BODY),
        "a large value": write("POST", "/api/v1/webhooks/5", [KIND, ("x", "y" * 100_000)], OPEN_BODY),
        "many lines": write("POST", "/api/v1/webhooks/5", [KIND, *[("x", "y")] * 250], OPEN_BODY),
    }

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for what, data in attacks.items():
                answer = await door.raw(data)
                assert answer.startswith(b"HTTP/1.1 400 ") or not answer, what
            assert await door.events() == 0
            headers = [*true_headers(1), *many]
            assert await door.send(Forgery("true", 1, headers)) == 200

    tell(story())


def test_bodies_beyond_their_bounds_start_nothing(store: str, tmp_path: Path) -> None:
    """Too large by its length or by its chunks, too slow, cut short, or longer than said: nothing of it is stored."""
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    kind = "content-type: application/json"
    attacks = {
        "announced": (start(kind, "content-length: 2001").replace(b"/1 ", b"/5 "), 413),
        "chunked": (start(kind, "transfer-encoding: chunked").replace(b"/1 ", b"/5 ") + chunk * 3, 413),
        "slow": (start(kind, "content-length: 19").replace(b"/1 ", b"/5 ") + OPEN_BODY[:-1], 408),
        "slow chunks": (start(kind, "transfer-encoding: chunked").replace(b"/1 ", b"/5 ") + b"13\r\n" + OPEN_BODY, 408),
    }

    async def story() -> None:
        async with opened(store, tmp_path, body_timeout=0.3) as door:
            for what, (data, status) in attacks.items():
                answer = await door.raw(data)
                assert answer.startswith(b"HTTP/1.1 %d " % status), what
            assert await door.events() == 0

    tell(story())
