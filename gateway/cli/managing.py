"""`app` and `token`: who may send, and who may call."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from gateway.cli.common import (
    Json,
    Shard,
    coloured,
    fail,
    in_words,
    local_time,
    out,
    plainly,
    print_json,
    table,
    with_store,
    written,
)

apps = typer.Typer(help="Apps: list, show, add, change, remove.", no_args_is_help=True)
Changed = Annotated[str, typer.Argument(help="Id or name of an app that was made by command.")]
Callback = Annotated[bool, typer.Option("--callback", help="The secret that its own callbacks are signed with.")]
tokens = typer.Typer(help="API tokens: create, list, revoke.", no_args_is_help=True)


@apps.command("list")
def list_apps(json: Json = False) -> None:
    """All registered senders."""

    async def work(shard: Shard) -> list[dict[str, Any]]:
        apps = (await shard.catalog.read()).apps.values()
        return await _describe_apps(shard, sorted(apps, key=lambda each: each.id))

    found = with_store(work)
    if json:
        print_json(found)
        return
    rows = table("id", "name", "scheme", "starts", "callback", "credits", "from")
    for each in found:
        starts = "what the body names" if each["adapter"] == "direct" else ", ".join(each["triggers"]) or "nothing"
        name = each["name"] + (" [yellow](disabled)[/yellow]" if each["disabled"] else "")
        rows.add_row(
            str(each["id"]),
            name,
            each["scheme"] or "[red]none[/red]",
            starts,
            each["callback_url"] or "–",
            _credit_words(each["credits"]),
            each["managed_by"],
        )
    out().print(rows if found else "no apps yet; write one in gateway.yaml, or `gateway app add`")


@apps.command("show")
def show_app(name: Annotated[str, typer.Argument(help="Id, name or token.")], json: Json = False) -> None:
    """One app: its address, how it is verified, what it starts."""

    async def work(shard: Shard) -> list[dict[str, Any]]:
        apps = (await shard.catalog.read()).apps.values()
        named = [each for each in apps if name in (str(each.id), each.name, each.token)]
        return [
            each | await _describe_pairing(shard, app)
            for app, each in zip(named, await _describe_apps(shard, named), strict=True)
        ]

    found = with_store(work)
    if not found:
        fail(f"there is no app {name!r}; `gateway app list` shows those there are")
    document = found[0]
    if json:
        print_json(document)
        return
    words = {"credits": _credit_words(document["credits"]), "secret_uses": _use_words(document["secret_uses"])}
    shown = document | words
    for field, value in (shown | shown.pop("door")).items():
        out().print(f"[dim]{field:<15}[/dim] {written(in_words(value))}")


@apps.command("add")
def add_app(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    scheme: Annotated[str, typer.Option(help="How it signs: orqo, github, ..")] = "orqo",
    direct: Annotated[bool, typer.Option(help="The body names the workflow to run.")] = True,
    callback_url: Annotated[str | None, typer.Option(help="Where to tell that a run has ended.")] = None,
    public_url: Annotated[str | None, typer.Option(help="The URL given to a sender that signs it.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Of a sender that has many: websub, aws-sns.")] = None,
    json: Json = False,
) -> None:
    """Register a sender with a new secret, shown once and kept encrypted."""
    from gateway.registrations import Wish

    wish = Wish(
        name=name,
        scheme=scheme,
        direct=direct,
        callback_url=callback_url,
        public_url=public_url,
        topics=tuple(topic or ()),
    )
    document = _describe_new(with_store(lambda shard: shard.management(sealing=True).add_app(wish)))
    if json:
        print_json(document)
        return
    screen = out()
    screen.print(f"[green]✔[/green] app [bold]{document['name']}[/bold], id {document['id']}")
    screen.print(f"  [dim]post to        [/dim] {document['path']}  (or {document['token_path']})")
    if document["secret"] is None:
        screen.print(f"  It waits for the secret that its sender hands over at {document['token_path']}")
    else:
        screen.print(f"  [dim]secret         [/dim] {document['secret']}")
    if callback_url:
        screen.print(f"  [dim]callback secret[/dim] {document['callback_secret']}")
    screen.print("  Keep what is secret now; it is not shown again.")


@apps.command("disable")
def disable_app(name: Changed, json: Json = False) -> None:
    """Answer 403 to whatever it sends, until it is enabled again."""
    _change_app(lambda shard: shard.management().disable_app(name), "is disabled", json)


@apps.command("enable")
def enable_app(name: Changed, json: Json = False) -> None:
    """Let a disabled app send again."""
    _change_app(lambda shard: shard.management().disable_app(name, disabled=False), "is enabled", json)


@apps.command("remove")
def remove_app(name: Changed, json: Json = False) -> None:
    """Forget an app; its address is not found any more. Its runs stay."""
    _change_app(lambda shard: shard.management().remove_app(name), "is removed", json)


@apps.command("pair")
def pair_app(name: Annotated[str, typer.Argument(help="Id or name of the app.")], json: Json = False) -> None:
    """Forget the secret that its sender handed over, and wait for another: until then it refuses everything."""
    _change_app(lambda shard: shard.management().reopen_app(name), "waits for its sender's secret", json)


@apps.command("rotate-secret")
def rotate_secret(
    name: Changed,
    overlap: Annotated[str, typer.Option(help="How long the secret before is taken as well; at most 30d.")] = "24h",
    force: Annotated[bool, typer.Option(help="Even while two are taken: the older one ends now.")] = False,
    callback: Callback = False,
    json: Json = False,
) -> None:
    """Give an app a new secret, shown once. The one it had is taken as well, or signs as well, for the overlap."""
    from gateway.retries import read_duration

    with plainly():
        seconds = read_duration(overlap, "--overlap")

    async def work(shard: Shard) -> Any:
        management = shard.management(sealing=True)
        return await management.rotate_secret(name, seconds, force=force, callback=callback)

    document = _describe_new(with_store(work))
    if json:
        print_json(document)
        return
    screen = out()
    made, before = _rotation_words(document, callback)
    screen.print(f"[green]✔[/green] app [bold]{document['name']}[/bold] has a new {made}; {before}")
    secret = document["callback_secret" if callback else "secret"]
    screen.print(f"  [dim]secret[/dim] {secret}\n  Keep it now; it is not shown again.")


def _rotation_words(document: dict[str, Any], callback: bool) -> tuple[str, str]:
    """What was made, and what becomes of the one before."""
    if callback:
        made, end, still = "callback secret", document["callback_overlap_until"], "signs as well"
    else:
        ends = [each["expires_at"] for each in document["secret_uses"] if each["expires_at"]]
        made, end, still = "secret", ends[0] if ends else None, "is taken"
    return made, f"the one before {still} until {local_time(end)}" if end else "the one before is over"


@apps.command("revoke-secret")
def revoke_secret(name: Changed, callback: Callback = False, json: Json = False) -> None:
    """End an app's older secret now, before its time."""
    done = "has callbacks signed with the newest secret only" if callback else "takes its newest secret only"
    _change_app(lambda shard: shard.management().revoke_app_secret(name, callback=callback), done, json)


def _change_app(work: Callable[[Shard], Coroutine[Any, Any, Any]], done: str, json: bool) -> None:
    async def change(shard: Shard) -> dict[str, Any]:
        (document,) = await _describe_apps(shard, [await work(shard)])
        return document

    document = with_store(change)
    if json:
        print_json(document)
        return
    out().print(f"[green]✔[/green] app [bold]{document['name']}[/bold] {done}")


async def _describe_apps(shard: Shard, apps: list[Any]) -> list[dict[str, Any]]:
    from gateway.documents import describe_app, plain, uses_of
    from gateway.store.lookups import find_unopened

    uses = await shard.reader.secret_uses(uses_of(apps))
    balances = await shard.reader.balances({each.payer: each.credits for each in apps if each.credits})
    lookup = shard.lookup(await shard.catalog.read())
    return [plain(describe_app(each, balances.get(each.payer), uses, find_unopened(each, lookup))) for each in apps]


async def _describe_pairing(shard: Shard, app: Any) -> dict[str, Any]:
    """Of an app whose sender hands over the secret: since when it has it; and Notion's, which Notion asks for."""
    from gateway.apps import read_verify
    from gateway.door_documents import handshake_of
    from gateway.runs import iso

    if not any(reference.paired for reference in read_verify(app)[1]):
        return {}
    found = await shard.management().pairing(app)
    if found is None:
        return {"paired_at": None, "waits_for": "the secret that its sender hands over"}
    at, secret = found
    return {"paired_at": iso(at)} | ({"verification_token": secret} if handshake_of(app) == "notion" else {})


def _describe_new(made: Any) -> dict[str, Any]:
    from gateway.documents import describe_new_app, plain

    with plainly():
        return plain(describe_new_app(made))


def _use_words(uses: list[dict[str, Any]]) -> str:
    """Which of an app's secrets its sender uses, newest first."""
    words = []
    for use in uses:
        last = "" if use["last_used_at"] is None else f", last {local_time(use['last_used_at'])}"
        used = f"used {use['count']} times since {local_time(use['since'])}{last}" if use["count"] else "not used yet"
        end = f", ends {local_time(use['expires_at'])}" if use["expires_at"] else ""
        words.append(f"{use['secret']}: {used}{end}")
    return "; ".join(words) or "–"


def _credit_words(credits: dict[str, Any] | None) -> str:
    """A balance as a person reads it; without one there is no limit."""
    if credits is None:
        return "–"
    refill = f", again at {local_time(credits['refill_at'])}" if credits["refill_at"] else ""
    return f"{credits['left']} of {credits['amount']}{refill}"


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="What it may do; again for more.")] = None,
    credits: Annotated[int | None, typer.Option(help="Credits it may use; without, no limit.", min=0)] = None,
    refill: Annotated[str | None, typer.Option(help="When it gets as many anew: 3d, 12h, ..")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires; without, it does not.", min=0.001)] = None,
    json: Json = False,
) -> None:
    """Make an API token. It is shown once."""
    from gateway.credits import Allowance
    from gateway.documents import describe_new_token, plain
    from gateway.tokens import SCOPES, read_grant

    scopes = scope or ["runs:start", "runs:read"]
    unknown = [each for each in scopes if read_grant(each) is None]
    if unknown:
        narrowed = "each but admin narrowed with @workflow:NAME or @app:NAME"
        fail(f"there is no scope {unknown[0]!r}; scopes: {', '.join(SCOPES)}, {narrowed}", code=2)
    try:
        allowance = None if credits is None else Allowance(credits, refill)
    except ValueError as error:
        fail(f"--refill: {error}", code=2)
    seconds = None if days is None else days * 86_400
    text, token = with_store(lambda shard: shard.management().add_token(name, scopes, seconds, allowance))
    if json:
        print_json(plain(describe_new_token(token, text, time.time())))
        return
    out().print(
        f"[green]✔[/green] token [bold]{name}[/bold] ({', '.join(scopes)})\n\n  {text}\n\n  Keep it now; it is not shown again."
    )
    out().print(f"\n  Try it:\n\nexport GATEWAY_TOKEN={text}\n\n{_first_call(scopes)}", markup=False, soft_wrap=True)


def _first_call(scopes: list[str]) -> str:
    """The first route that the token may use, called in curl, Python and JavaScript."""
    from gateway.settings import read_settings
    from gateway.tokens import read_grant
    from gateway.web.api import API
    from gateway.web.samples import samples

    carried = {grant.scope for each in scopes if (grant := read_grant(each))}
    row = next(each for each in API.endpoints if each.scope in carried or "admin" in carried or each.scope is None)
    written = samples(API, row, read_settings().address)
    return "\n".join(f"{each['label']}\n\n{each['source']}\n" for each in written)


@tokens.command("list")
def list_tokens(json: Json = False) -> None:
    """All tokens, without their secrets: when each was last used, and what credits it has left."""

    async def work(shard: Shard) -> list[dict[str, Any]]:
        return await _describe_tokens(shard, await shard.management().tokens())

    found = with_store(work)
    if json:
        print_json(found)
        return
    rows = table("id", "name", "status", "scopes", "created", "expires", "last used", "credits")
    for each in found:
        expires = local_time(each["expires_at"]) if each["expires_at"] else "never"
        used = local_time(each["last_used_at"])[:-3] if each["last_used_at"] else "never"
        rows.add_row(
            each["id"],
            each["name"],
            coloured(each["status"]),
            ", ".join(each["scopes"]),
            local_time(each["created_at"]),
            expires,
            used,
            _credit_words(each["credits"]),
        )
    out().print(rows if found else "no tokens yet")


@tokens.command("revoke")
def revoke_token(token_id: Annotated[str, typer.Argument(help="The token's id or name.")], json: Json = False) -> None:
    """End a token at once."""

    async def work(shard: Shard) -> Any:
        management = shard.management()
        live = [each for each in await management.tokens() if each.revoked_at is None]
        named = [each.id for each in live if token_id in (each.id, each.name)]
        if len(named) != 1:
            return len(named)
        (document,) = await _describe_tokens(shard, [await management.revoke_token(named[0])])
        return document

    revoked = with_store(work)
    if revoked == 0:
        fail(f"there is no live token {token_id!r}; `gateway token list` shows those there are")
    if isinstance(revoked, int):
        fail(f"several tokens are called {token_id!r}; name one by its id")
    if json:
        print_json(revoked)
        return
    out().print(f"[green]✔[/green] token [bold]{revoked['name']}[/bold] is revoked")


async def _describe_tokens(shard: Shard, tokens: list[Any]) -> list[dict[str, Any]]:
    from gateway.documents import describe_token, plain

    now, used = time.time(), await shard.reader.last_uses()
    balances = await shard.reader.balances({each.payer: each.credits for each in tokens if each.credits})
    return [plain(describe_token(each, now, used.get(each.id), balances.get(each.payer))) for each in tokens]
