"""An OpenAI-compatible provider, as a process of its own: `python -m tests.model_server` prints its port.

The model's name says how it behaves (see ANSWERS and STREAMS). `GET /calls` tells what was asked so far, `POST /reset`
forgets it, `POST /go` lets the models go on that wait. The key is KEY; 401 and 400 quote the key they were given.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.tools import Call, read_call

KEY = "sk-of-the-tests-0123456789"
WORDS = ["The ", "answer ", "is ", "zwölf", "."]
USAGE = {"prompt_tokens": 1200, "completion_tokens": 300, "total_tokens": 1500}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


class Provider:
    """What the process has seen."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.hung_up = 0
        self.go = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            call = await read_call(reader)
            await (
                self._complete(call, reader, writer)
                if call.target == "/v1/chat/completions"
                else self._tell(call, writer)
            )
        writer.close()

    async def _tell(self, call: Call, writer: asyncio.StreamWriter) -> None:
        if call.target == "/go":
            self.go.set()
        if call.target == "/reset":
            self.calls.clear()
            self.hung_up = 0
            self.go.clear()
        await write(writer, 200, {"calls": self.calls, "hung_up": self.hung_up})

    async def _complete(self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(call.body)
        given = call.headers.get("authorization", "")
        self.calls.append({"at": time.monotonic(), "headers": call.headers, "body": asked})
        if given != f"Bearer {KEY}":
            await write(writer, 401, fault(f"Incorrect API key provided: {given}", "invalid_api_key"))
            return
        again = sum(each["body"]["model"] == asked["model"] for each in self.calls) > 1
        answering = asyncio.ensure_future(self._answer(asked, given, again, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        done, pending = await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        self.hung_up += answering not in done
        for task in pending:
            task.cancel()
        await asyncio.gather(answering, return_exceptions=True)

    async def _answer(self, asked: dict[str, Any], given: str, again: bool, writer: asyncio.StreamWriter) -> None:
        model = asked["model"]
        if model in FAULTS and not (again and model.endswith("-once")):
            status, headers = FAULTS[model]
            await write(writer, status, fault(f"no, {given.removeprefix('Bearer ')}, {model}", model), headers)
        elif asked.get("stream") and model != "no-stream":
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n")
            async for piece in STREAMS.get(model, self.speak)(asked):
                writer.write(piece)
                await writer.drain()
        elif model == "slow":
            await self.go.wait()
        else:
            await write(writer, 200, ANSWERS.get(model, plain)(asked, again))

    async def speak(self, asked: dict[str, Any]) -> AsyncIterator[bytes]:
        """The words one by one; `waits` stops after the first until it may go on."""
        yield event(chunk(asked, {"role": "assistant", "content": ""}))
        for index, word in enumerate(WORDS):
            if index == 1 and asked["model"] == "waits":
                await self.go.wait()
            yield event(chunk(asked, {"content": word}))
        yield event(chunk(asked, {}, "stop"))
        if asked.get("stream_options", {}).get("include_usage"):
            yield event(chunk(asked) | {"choices": [], "usage": USAGE})
        yield b"data: [DONE]\n\n"


def fault(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


FAULTS: dict[str, tuple[int, dict[str, str]]] = {
    "bad-request": (400, {}),
    "missing": (404, {}),
    "forbidden": (403, {}),
    "busy": (429, {}),
    "busy-once": (429, {"retry-after": "1"}),
    "overloaded": (503, {}),
    "broken-once": (500, {}),
    "elsewhere": (302, {"location": "http://127.0.0.1:1/"}),
}


def completion(asked: dict[str, Any], content: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content} | message, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked["model"] + "-2026"}
    return head | {"choices": [choice], "usage": USAGE}


def chunk(asked: dict[str, Any], delta: Any = None, reason: str | None = None) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": asked["model"] + "-2026"}
    return head | {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": reason}], "usage": None}


def event(document: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(document, ensure_ascii=False).encode()


def plain(asked: dict[str, Any], _: bool) -> dict[str, Any]:
    return completion(asked, "".join(WORDS))


ANSWERS: dict[str, Callable[[dict[str, Any], bool], Any]] = {
    "json": lambda asked, _: completion(asked, '{"verdict": "good", "score": 3}'),
    "json-later": lambda asked, again: completion(
        asked, '{"verdict": "good", "score": 3}' if again else '{"verdict": 1}'
    ),
    "no-json": lambda asked, _: completion(asked, "I'd say it is good."),
    "length": lambda asked, _: completion(asked, "The ans", "length"),
    "filter": lambda asked, _: completion(asked, "", "content_filter"),
    "refuses": lambda asked, _: completion(asked, None, refusal="I can't help with that."),
    "tools": lambda asked, _: completion(asked, None, "tool_calls", tool_calls=[]),
    "no-usage": lambda asked, _: completion(asked, "hi") | {"usage": None},
    "owes": lambda asked, _: completion(asked, "hi") | {"usage": {"total_tokens": -5_000_000}},
    "empty": lambda asked, _: completion(asked, "x") | {"choices": []},
    "html": lambda asked, _: "<html>",
    "quotes-key": lambda asked, _: completion(asked, f"your key is {KEY}"),
}


async def cut(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    """The connection ends in the middle of an event."""
    yield event(chunk(asked, {"content": "The "})) + event(chunk(asked, {"content": "answer "}))[:-20]


async def fail_midway(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    yield event(chunk(asked, {"content": "The "})) + event(fault("the engine stalled", "server_error"))


async def fall_silent(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    yield event(chunk(asked, {"content": "The "}))
    await asyncio.sleep(30)


async def flood(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    for _ in range(200):
        yield event(chunk(asked, {"content": "x" * 1000}))


async def carriage_returns(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    """Lines end in CR LF, which come apart, comments stand between, and nothing says that it is done."""
    for document in (chunk(asked, {"content": "a"}), chunk(asked, {"content": "b"}, "stop")):
        raw = (b": ping\n\n" + event(document)).replace(b"\n", b"\r\n")
        for place in range(0, len(raw), 7):
            yield raw[place : place + 7]


async def refuse(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    yield event(chunk(asked, {"refusal": "I can't "})) + event(chunk(asked, {"refusal": "do that."}, "stop"))


async def babble(asked: dict[str, Any]) -> AsyncIterator[bytes]:
    yield b"data: no json\n\n"


STREAMS: dict[str, Callable[[dict[str, Any]], AsyncIterator[bytes]]] = {
    "cut": cut,
    "fails-midway": fail_midway,
    "falls-silent": fall_silent,
    "floods": flood,
    "carriage-returns": carriage_returns,
    "refuses": refuse,
    "babbles": babble,
}


async def write(
    writer: asyncio.StreamWriter, status: int, document: Any, headers: dict[str, str] | None = None
) -> None:
    body = json.dumps(document).encode() if not isinstance(document, str) else document.encode()
    named = {"content-type": "application/json", "content-length": len(body), "connection": "close"} | (headers or {})
    head = [f"HTTP/1.1 {status} Word", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    writer.write("\r\n".join(head).encode() + body)
    await writer.drain()


async def main() -> None:
    server = await asyncio.start_server(Provider().serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 (whoever started it reads this)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
