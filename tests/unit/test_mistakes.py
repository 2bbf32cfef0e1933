"""Each class of mistake in a definition is told with its line, its column, the field, and what to write instead."""

from __future__ import annotations

import pytest

from gateway.configuration import read_configuration, read_workflows
from gateway.places import Mistakes

STEP = "workflows:\n  - name: w\n    steps:\n      - id: s\n        %s\n"
MORE = "workflows:\n  - name: w\n    steps:\n      - id: s\n        transform: 1\n        %s\n"
FIELD = "workflows:\n  - name: w\n    steps: [{id: s, transform: 1}]\n    %s\n"
APP = "apps:\n  - name: a\n    verify: none\n    %s\n"
SENDER = "apps:\n  - name: a\n    verify: {scheme: %s, secrets: [{env: A}]%s}\n    %s\n"
HUB = SENDER % ("github", "", "reconcile: {hook: 1, token: {env: T}, %s}")

# the file, the line and column of the mistake, the end of its path, words of its hint
TABLE: dict[str, tuple[str, int, int, str, str]] = {
    "foreach is no list": (STEP % "foreach: 3", 4, 9, "steps[0]", "exactly one of"),
    "foreach of a text": (MORE % "foreach: input.items", 6, 9, ".foreach", "takes ${...} that gives a list"),
    "foreach with a slip": (MORE % "foreach: ${inpt.items}", 6, 9, ".foreach", "did you mean `input`?"),
    "a list of no step": (MORE % "foreach: ${steps.x.output}", 6, 9, ".foreach", "no step of this workflow (steps: s)"),
    "item without foreach": (STEP % "transform: ${item}", 5, 9, ".transform", "`item` can't be used here"),
    "no room for items": (MORE % "parallel: 0", 6, 9, ".parallel", ">= 1"),
    "too much room": (MORE % "parallel: 5000", 6, 9, ".parallel", "<= 1000"),
    "item failure": (MORE % "on_item_failure: skip", 6, 9, ".on_item_failure", "there are: continue, fail"),
    "unknown": (MORE % "on_unknown: retri", 6, 9, ".on_unknown", "did you mean `retry`?"),
    "a probe that isn't": (MORE % "on_unknown: {verify: t}", 6, 22, ".on_unknown.verify", "no other step"),
    "a probe misspelt": (MORE % "on_unknown: {verfy: t}", 6, 22, ".on_unknown.verfy", "did you mean `verify`?"),
    "a wait of nothing": (STEP % "wait: {}", 5, 9, ".wait", "exactly one of for, until, signal"),
    "a wait of a text": (STEP % "wait: 3s", 5, 9, ".wait", "write its fields: {for: .., "),
    "a wait for soon": (STEP % "wait: {for: soon}", 5, 16, ".wait.for", "Write 250ms, 30s"),
    "a wait until tomorrow": (STEP % "wait: {until: tomorrow}", 5, 16, ".wait.until", "write ISO 8601"),
    "a wait until a slip": (STEP % "wait: {untl: 3}", 5, 16, ".wait.untl", "did you mean `until`?"),
    "a timeout of a time": (STEP % "wait: {for: 1s, timeout: 3s}", 5, 25, ".wait.timeout", "only a wait for a signal"),
    "after its timeout": (STEP % "wait: {signal: x, on_timeout: retry}", 5, 27, ".on_timeout", "continue, fail"),
    "an approval's time": (STEP % "approval: {timeout: 3 weeks}", 5, 20, ".approval.timeout", "not a duration"),
    "an approval by one": (STEP % "approval: {who: ann}", 5, 20, ".approval.who", "write a list: [..]"),
    "an approval's field": (STEP % "approval: {whom: [a]}", 5, 20, ".approval.whom", "did you mean `who`?"),
    "an approval's words": (STEP % "approval: {message: '${inpt}'}", 5, 20, ".approval.message", "mean `input`?"),
    "a rejection": (STEP % "approval: {on_reject: retry}", 5, 20, ".on_reject", "there are: continue, fail"),
    "a child of a text": (STEP % "workflow: other", 5, 9, ".workflow", "write its fields: {"),
    "a child misspelt": (STEP % "workflow: {nme: x}", 5, 20, ".workflow.nme", "did you mean `name`?"),
    "a child's failure": (STEP % "workflow: {name: x, on_failure: skip}", 5, 29, ".on_failure", "continue, fail"),
    "a child's input": (
        *(STEP % "workflow: {name: x, input: {a: '${steps.t.output}'}}", 5, 37),
        *(".workflow.input.a", "no step of this workflow"),
    ),
    "with beside http": (
        *(STEP % "with: {a: 1}\n        http: {url: 'https://x.example'}", 5, 9),
        *(".with", "stands in `http`"),
    ),
    "isolate beside transform": (MORE % "isolate: process", 6, 9, ".isolate", "for python steps"),
    "a retry of a number": (MORE % "retry: 3", 6, 9, ".retry", "write its fields: {attempts: .., "),
    "a retry's time": (MORE % "retry: {initial: soon}", 6, 17, ".retry.initial", "not a duration"),
    "a retry's field": (MORE % "retry: {attemps: 3}", 6, 17, ".retry.attemps", "did you mean `attempts`?"),
    "a URL of nothing": (STEP % "http: {url: ''}", 5, 16, ".http.url", "write https://host/"),
    "a URL elsewhere": (STEP % "http: {url: 'ftp://x.example'}", 5, 16, ".http.url", "neither https nor http"),
    "a password in a URL": (STEP % "http: {url: 'https://u:${input.p}@x.example'}", 5, 16, ".url", "does not stand"),
    "a secret as text": (STEP % "http: {url: 'https://x.example', bearer: abc}", 5, 42, ".bearer", "{env: NAME}"),
    "a model's secret": (STEP % "model: {model: m, prompt: p, key: sk-1}", 5, 38, ".key", "{env: NAME}"),
    "a status of one": (STEP % "http: {url: 'https://x.example', expect: 200}", 5, 42, ".expect", "write a list"),
    "a gate of none": (FIELD % "concurrency: {limit: 0}", 4, 19, "concurrency.limit", ">= 1"),
    "a gate without limit": (FIELD % "concurrency: {key: input.x}", 4, 5, "concurrency", "required field `limit`"),
    "a gate's key": (FIELD % "concurrency: {limit: 1, key: inpt.x}", 4, 29, "concurrency.key", "mean `input`?"),
    "a gate's scope": (FIELD % "concurrency: {limit: 1, scope: all}", 4, 29, ".scope", "there are: gateway, workflow"),
    "a gate's conflict": (FIELD % "concurrency: {limit: 1, on_conflict: cancel}", 4, 29, "", "mean `cancel_running`?"),
    "a throttle's time": (FIELD % "throttle: {limit: 1, period: often}", 4, 26, "throttle.period", "not a duration"),
    "a burst": (FIELD % "throttle: {limit: 1, period: 1s, burst: 3}", 4, 38, "throttle.burst", "more than `limit`"),
    "a rate's time": (FIELD % "rate_limit: {limit: 1}", 4, 5, "rate_limit", "required field `period`"),
    "a short patience": (FIELD % "debounce: {period: 9s, max_wait: 1s}", 4, 28, "debounce.max_wait", "at least"),
    "a large batch": (FIELD % "batch: {max_size: 9999, timeout: 1s}", 4, 13, "batch.max_size", "<= 1000"),
    "a priority": (FIELD % "priority: 1000", 4, 5, "priority", "-600 to 600"),
    "a schedule's fields": (FIELD % "schedule: 0 9 * *", 4, 5, "schedule.cron", "cron has five"),
    "a schedule's hour": (FIELD % "schedule: 0 99 * * *", 4, 5, "schedule.cron", "can't be read as cron"),
    "a schedule's zone": (FIELD % "schedule: {cron: 0 9 * * *, zone: Berlin}", 4, 33, ".zone", "Europe/Berlin"),
    "a missed tick": (FIELD % "schedule: {cron: 0 9 * * *, missed: all}", 4, 33, ".missed", "mean `run_all`?"),
    "a schedule's input": (
        *(FIELD % "schedule: {cron: 0 9 * * *, input: {a: '${input.x}'}}", 4, 41),
        *("schedule.input.a", "in reach: event, app"),
    ),
    "a chain of a text": (FIELD % "on: other", 4, 5, ".on", "write a list: [..]"),
    "a chain of nothing": (FIELD % "on: [{workflow: x}]", 4, 11, "on[0].workflow", "no workflow 'x' in this file"),
    "a chain's field": (FIELD % "on: [{workflw: w}]", 4, 11, "on[0].workflw", "did you mean `workflow`?"),
    "a chain's ending": (FIELD % "on: [{workflow: w, status: [done]}]", 4, 33, "status[0]", "completed, failed"),
    "a chain of no ending": (FIELD % "on: [{workflow: w, status: []}]", 4, 24, "on[0].status", "give completed"),
    "a chain's condition": (FIELD % "on: [{workflow: w, when: rn.output}]", 4, 24, "on[0].when", "mean `run`?"),
    "a field of steps": (
        FIELD % "timeout: 3s",
        4,
        5,
        "workflows[0].timeout",
        "(there are: batch, callback, concurrency, ",
    ),
    "an output of no step": (FIELD % "output: {a: '${steps.t.output}'}", 4, 14, "output.a", "(steps: s)"),
    "a form's field": (APP % "form: {origin: []}", 4, 12, "form.origin", "did you mean `origins`?"),
    "a page of a form": (APP % "form: {redirect: /thanks}", 4, 12, "form.redirect", "is no page's address"),
    "an answer of failure": (APP % "respond: {status: 500}", 4, 15, "respond.status", "<= 299"),
    "an answer's slip": (APP % "respond: {body: '${evnt.type}'}", 4, 15, "respond.body", "did you mean `event`?"),
    "a file's type": (APP % "files: {types: [pdf]}", 4, 21, "files.types[0]", "`image/png`"),
    "a file's field": (APP % "files: {count: 3}", 4, 13, "files.count", "did you mean `max_count`?"),
    "a network by name": (APP % "networks: [example.com]", 4, 16, "networks[0]", "write 203.0.113.0/24"),
    "a rate of none": (APP % "rate: 0/minute", 4, 5, "rate", "write 60/minute"),
    "a method": (APP % "methods: [post]", 4, 15, "methods[0]", "there are: DELETE, PATCH, POST, PUT"),
    "a content type": (APP % "content_types: [json]", 4, 21, "content_types[0]", "is no content type"),
    "topics for nobody": (APP % "topics: [https://x.example]", 4, 5, "topics", "`scheme: websub` or `aws-sns`"),
    "no topics": (SENDER % ("websub", "", "id: 1"), 2, 5, "topics", "`topics: [..]`"),
    "no webhook's id": (SENDER % ("paypal", "", "id: 1"), 3, 5, "verify.webhook_id", "id that PayPal shows"),
    "a webhook's id": (
        SENDER % ("github", ", webhook_id: x", "id: 1"),
        3,
        51,
        "webhook_id",
        "means nothing for kind hmac",
    ),
    "a handshake": (SENDER % ("orqo", ", handshake: slak", "id: 1"), 3, 49, "handshake", "did you mean 'slack'?"),
    "no public URL": (SENDER % ("square", "", "id: 1"), 2, 5, "public_url", "write the one it was given"),
    "a public path": (SENDER % ("square", "", "public_url: /in"), 4, 5, "public_url", "https://host/path"),
    "a header of secrets": (APP % "headers: [Authorization]", 4, 15, "headers[0]", "shows who sends"),
    "a header of words": (APP % "headers: ['X Y']", 4, 15, "headers[0]", "is no header's name"),
    "a nameless field": (APP % "json_field: ''", 4, 5, "json_field", "length >= 1"),
    "a bottomless body": (APP % "max_depth: 100000", 4, 5, "max_depth", "<= 200"),
    "a repository": (HUB % "repository: site", 4, 43, "reconcile.repository", "written owner/name"),
    "an organization": (HUB % "organization: 'a b'", 4, 43, "reconcile.organization", "its short name"),
    "a hasty round": (HUB % "repository: a/b, every: 1s", 4, 60, "reconcile.every", "from 1m to 1d"),
    "another's list": (
        SENDER % ("gitlab", "", "reconcile: {hook: 1, token: {env: T}, repository: a/b}"),
        4,
        5,
        "reconcile",
        "`scheme: github`",
    ),
    "a callback's URL": (APP % "callback: {url: x.example, secret: {env: A}}", 4, 16, "callback.url", "https://host/"),
    "a callback's secret": (APP % "callback: {url: 'https://x.example', secret: a}", 4, 42, ".secret", "{env: NAME}"),
    "a sealed secret": (
        *(APP % "callback: {url: 'https://x.example', secret: {sealed: a}}", 4, 42),
        *("apps[0].callback.secret", "one of {env: NAME}, {file: PATH} or {secret: NAME}"),
    ),
    "a sealed older secret": (
        *(APP % "callback: {url: 'https://x.example', secret: {env: A}, previous: {sealed: a}}", 4, 60),
        *("apps[0].callback.previous", "one of {env: NAME}, {file: PATH} or {secret: NAME}"),
    ),
    "two secrets in one": (
        *(APP % "callback: {url: 'https://x.example', secret: {env: A, file: /a}}", 4, 42),
        *("apps[0].callback.secret", "one of {env: NAME}, {file: PATH} or {secret: NAME}"),
    ),
    "an empty secret": (APP % "credentials: {key: {}}", 4, 19, "apps[0].credentials.key", "one of {env: NAME}"),
}


@pytest.mark.parametrize(("text", "line", "column", "path", "words"), TABLE.values(), ids=list(TABLE))
def test_a_mistake_says_where_and_what_to_write(text: str, line: int, column: int, path: str, words: str) -> None:
    """One mistake is told: at its line and column, by its field's path, with a hint."""
    with pytest.raises(Mistakes) as caught:
        read_configuration(text)
    (found,) = caught.value.mistakes
    assert (found.line, found.column if column else 0) == (line, column), found
    assert found.path.endswith(path), found
    assert words in found.message, found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: w\nsteps:\n  - {id: s, wait: {untl: 3}}\n", "line 3, column 20: steps[0].wait.untl: there is no field"),
        ("name: w\nsteps: [{id: s, wait: {signal: x, on_timeout: no}}]\n", "put it in quotes"),
        ("name: w\nstps: []\n", "did you mean `steps`?"),
    ],
)
def test_a_definition_alone_is_told_the_same(text: str, words: str) -> None:
    """A definition that is uploaded by itself gets the same hints, with its own paths."""
    with pytest.raises(Mistakes) as caught:
        read_workflows(text)
    assert words in str(caught.value)
