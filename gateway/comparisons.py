"""What another configuration would make of events that came: two configurations and stored events in, differences out.

Silent, and without secrets: the events were proven when they came. Nothing is stored, and nothing is started.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import structs

from gateway.apps import App, LiveApp
from gateway.configuration import Configuration
from gateway.contents import read_direct, stored_values
from gateway.errors import BadRequest, ConfigError, GatewayError, Unprocessable
from gateway.events import Head
from gateway.masks import HIDDEN, Mask, is_sensitive
from gateway.replays import COPIES, UNDECIDED
from gateway.runs import RunRequest
from gateway.triggers import start_directly, try_trigger
from gateway.versions import Change, compare
from gateway.workflows import Published, Workflow

Kind = Literal["stops", "starts", "input", "workflow", "error", "mended"]
FILE = "file"
DIRECT = "(direct)"
EXAMPLES = 5
MOST_CHANGES = 5
LONGEST = 60
UNKNOWING = Mask()
"""A file's secrets need not be at hand: what is named like one is hidden."""


class Told(msgspec.Struct, frozen=True):
    """What one trigger makes of one event: the run it starts, why none, or what is wrong."""

    request: RunRequest | None = None
    reason: str | None = None
    error: str | None = None


class Example(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event for which it makes a difference, and which. Values that look like secrets are masked."""

    event_id: str
    kind: Kind
    reason: str | None = None
    changes: list[str] = []


class Row(msgspec.Struct, kw_only=True):
    """The differences of one trigger of one app: how many events `matched` now and would, and of each kind of
    difference how many. The kinds: it `stops` or `starts` matching, gives another `input` or `workflow`, has a new
    `error`, or has one no more (`mended`).
    """

    app: str
    trigger: str
    matched_before: int = 0
    matched_after: int = 0
    counts: dict[str, int] = {}
    examples: list[Example] = []

    def add(self, example: Example) -> None:
        """Count a difference, and keep the first few of each kind."""
        self.counts = self.counts | {example.kind: self.counts.get(example.kind, 0) + 1}
        if self.counts[example.kind] <= EXAMPLES:
            self.examples = [*self.examples, example]


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """What came of pushing events through two configurations.

    `gone` counts the events of apps that the new one doesn't have, by the apps' names. `others` are those that no app's
    triggers decide: started by a token, a hook, the clock or another run, handshakes, or copies.
    """

    looked_at: int
    others: int
    gone: dict[str, int]
    triggers: list[Row]

    @property
    def differs(self) -> bool:
        """Whether any event would be decided otherwise."""
        return bool(self.gone) or any(row.counts for row in self.triggers)


class Side:
    """One configuration, ready to judge events. What can't be used of it is left out."""

    def __init__(self, apps: Iterable[App], workflows: Iterable[tuple[Published, Workflow]]) -> None:
        self._workflows: dict[str, tuple[Published, Workflow]] = {}
        for published, workflow in workflows:
            self._workflows |= {str(published.id): (published, workflow), published.name: (published, workflow)}
        self.apps: dict[str, LiveApp] = {}
        for app in apps:
            try:
                self.apps[app.name] = LiveApp(app, lambda _reference, _owner: None)
            except ConfigError:
                continue

    def find_app(self, app_id: int | None, name: str) -> LiveApp | None:
        """The app with this id; one that the file gives no id goes by its name."""
        by_id = next((app for app in self.apps.values() if app.id == app_id), None)
        return by_id or self.apps.get(name)

    def find(self, name: str | int) -> tuple[Published, Workflow]:
        """The workflow with this id or name. Raises Unprocessable."""
        found = self._workflows.get(str(name))
        if found is None:
            message = f"there is no workflow {name!r}"
            raise Unprocessable(message)
        return found

    def judge(self, app: LiveApp, event_id: str, body: bytes, read: Callable[[], dict[str, Any]]) -> dict[str, Told]:
        """What each of an app's triggers makes of an event, by its name; `read` gives what expressions see of it."""
        if app.app.disabled:
            return {trigger.name: Told(reason="the app is disabled") for trigger in app.triggers}
        if app.direct:
            return {DIRECT: self._judge_direct(app, event_id, body)}
        values = {"event": read(), "app": {"id": app.id, "name": app.app.name}}
        return {trigger.name: self._judge_trigger(trigger, app, event_id, values) for trigger in app.triggers}

    def _judge_direct(self, app: LiveApp, event_id: str, body: bytes) -> Told:
        try:
            return Told(start_directly(read_direct(body), app, event_id, self.find))
        except (BadRequest, Unprocessable) as error:
            return Told(error=_explain(error))

    def _judge_trigger(self, trigger: Any, app: LiveApp, event_id: str, values: dict[str, Any]) -> Told:
        try:
            verdict, request = try_trigger(trigger, app.id, event_id, values, self.find)
        except Unprocessable as error:
            return Told(error=_explain(error))
        return Told(request, verdict.reason)


def foresee(configuration: Configuration, apps: Iterable[App], workflows: Iterable[tuple[Published, Workflow]]) -> Side:
    """What a file would make of what is published now: as it says, beside what was made by command or API."""
    apps, workflows = list(apps), list(workflows)
    held = {app.name: app.id for app in apps}
    numbers = {published.name: published.id for published, _ in workflows}
    # Without an id from anywhere a thing gets a new one, by which nothing in the file can call it.
    written = [structs.replace(app, id=app.id or held.get(app.name, 0)) for app in configuration.apps]
    kept = [app for app in apps if app.managed_by != FILE]
    made = [
        (_publish(workflow, workflow.definition.id or numbers.get(workflow.definition.name, 0)), workflow)
        for workflow in configuration.workflows
    ]
    others = [each for each in workflows if each[0].managed_by != FILE]
    return Side([*kept, *written], [*others, *made])


def _publish(workflow: Workflow, number: int) -> Published:
    return Published(id=number, name=workflow.definition.name, version=0, digest=workflow.digest, managed_by=FILE)


def _explain(error: GatewayError) -> str:
    """What is wrong, without a value that looks like a secret by its name."""
    path = str(error.details.get("path", ""))
    return f"{path}: it is refused (the reason is masked)" if is_sensitive(path) else error.message


class Comparison:
    """Pushes events through two configurations, one after the other, and keeps what differs."""

    def __init__(self, before: Side, after: Side, names: Mapping[int, str]) -> None:
        """`names` are the apps' names by the ids that stored events have."""
        self._before = before
        self._after = after
        self._names = names
        self._rows: dict[tuple[str, str], Row] = {}
        self._gone: dict[str, int] = {}
        self._looked = self._others = 0

    def look_at(self, event_id: str, head: Head, body: bytes) -> None:
        """Compare what becomes of one event."""
        name = None if head.app_id is None else self._names.get(head.app_id)
        is_copy = head.replay_of is not None or head.decision.scheme in COPIES or head.decision.outcome in UNDECIDED
        if name is None or name not in self._before.apps or is_copy:
            self._others += 1
            return
        self._looked += 1
        app = self._after.find_app(head.app_id, name)
        if app is None:
            self._gone[name] = self._gone.get(name, 0) + 1
            return
        read = functools.cache(lambda: stored_values(event_id, head, body))
        before = self._before.judge(self._before.apps[name], event_id, body, read)
        after = self._after.judge(app, event_id, body, read)
        for trigger in dict.fromkeys([*after, *before]):
            self._compare(name, trigger, event_id, before.get(trigger), after.get(trigger))

    def result(self) -> Backtest:
        """What came of it so far."""
        return Backtest(
            looked_at=self._looked, others=self._others, gone=dict(self._gone), triggers=list(self._rows.values())
        )

    def _compare(self, app: str, trigger: str, event_id: str, before: Told | None, after: Told | None) -> None:
        row = self._rows.setdefault((app, trigger), Row(app=app, trigger=trigger))
        before = before or Told(reason="there is no such trigger now")
        after = after or Told(reason="there is no such trigger any more")
        row.matched_before += before.request is not None
        row.matched_after += after.request is not None
        for example in _differ(event_id, before, after):
            row.add(example)


def _differ(event_id: str, before: Told, after: Told) -> Iterator[Example]:
    """How two verdicts about one event differ."""
    if after.error is not None:
        if before.error is None:
            yield Example(event_id=event_id, kind="error", reason=after.error)
    elif before.error is not None:
        yield Example(event_id=event_id, kind="mended", reason=before.error)
    elif before.request is None and after.request is not None:
        yield Example(event_id=event_id, kind="starts", reason=before.reason)
    elif before.request is not None and after.request is None:
        yield Example(event_id=event_id, kind="stops", reason=after.reason)
    elif before.request is not None and after.request is not None:
        yield from _differ_in_runs(event_id, before.request, after.request)


def _differ_in_runs(event_id: str, before: RunRequest, after: RunRequest) -> Iterator[Example]:
    if before.workflow != after.workflow:
        yield Example(event_id=event_id, kind="workflow", changes=[f"workflow: {before.workflow} → {after.workflow}"])
    changes = compare(before.input, after.input)
    if changes:
        yield Example(event_id=event_id, kind="input", changes=shorten(changes))


def shorten(changes: list[Change]) -> list[str]:
    """Changes of an input as short lines; what looks like a secret by its name is masked."""
    lines = [
        f"{each.path or 'input'}: {_show(each.path, each.before)} → {_show(each.path, each.after)}"
        for each in changes[:MOST_CHANGES]
    ]
    rest = len(changes) - MOST_CHANGES
    return [*lines, f"and {rest} more"] if rest > 0 else lines


def _show(path: str, value: Any) -> str:
    if value is msgspec.UNSET:
        return "nothing"
    return HIDDEN if is_sensitive(path) else UNKNOWING.shown(value, LONGEST)
