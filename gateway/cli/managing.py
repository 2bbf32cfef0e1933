"""`app` and `token`: who may send, and who may call."""

from __future__ import annotations

import secrets as randomness
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gateway.cli.common import (
    Json,
    Shard,
    coloured,
    fail,
    local_time,
    out,
    plainly,
    print_json,
    table,
    with_store,
)

apps = typer.Typer(help="Apps: list, show, add, change, remove.", no_args_is_help=True)
Changed = Annotated[str, typer.Argument(help="Id or name of an app that was made by command.")]
tokens = typer.Typer(help="API tokens: create, list, revoke.", no_args_is_help=True)


@apps.command("list")
def list_apps(json: Json = False) -> None:
    """All registered senders."""
    found = [_app_words(each) for each in with_store(_read_apps)]
    if json:
        print_json(found)
        return
    rows = table("id", "name", "scheme", "starts", "callback", "from")
    for each in found:
        starts = "what the body names" if each["adapter"] == "direct" else ", ".join(each["triggers"]) or "nothing"
        name = each["name"] + (" [yellow](disabled)[/yellow]" if each["disabled"] else "")
        rows.add_row(
            str(each["id"]),
            name,
            each["scheme"] or "[red]none[/red]",
            starts,
            each["callback_url"] or "–",
            each["managed_by"],
        )
    out().print(rows if found else "no apps yet; write one in gateway.yaml, or `gateway app add`")


@apps.command("show")
def show_app(name: Annotated[str, typer.Argument(help="Id, name or token.")], json: Json = False) -> None:
    """One app: its address, how it is verified, what it starts."""
    found = next((each for each in with_store(_read_apps) if name in (str(each.id), each.name, each.token)), None)
    if found is None:
        fail(f"there is no app {name!r}; `gateway app list` shows those there are")
    document = _app_words(found)
    if json:
        print_json(document)
        return
    for field, value in document.items():
        out().print(f"[dim]{field:<14}[/dim] {value if value not in (None, []) else '–'}")


@apps.command("add")
def add_app(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    scheme: Annotated[str, typer.Option(help="How it signs: orqo, github, ..")] = "orqo",
    direct: Annotated[bool, typer.Option(help="The body names the workflow to run.")] = True,
    callback_url: Annotated[str | None, typer.Option(help="Where to tell that a run has ended.")] = None,
    json: Json = False,
) -> None:
    """Register a sender with a new secret, shown once and kept encrypted."""
    secret, callback_secret = _new_secret(scheme), "whsec_" + _base64(randomness.token_bytes(32))

    async def work(shard: Shard) -> Any:
        return await shard.catalog.add_app(_new_app(shard, name, scheme, direct, callback_url, secret, callback_secret))

    added = with_store(work)
    document = _app_words(added) | {"secret": secret}
    if callback_url:
        document["callback_secret"] = callback_secret
    if json:
        print_json(document)
        return
    screen = out()
    screen.print(f"[green]✔[/green] app [bold]{added.name}[/bold], id {added.id}")
    screen.print(f"  [dim]post to        [/dim] {document['path']}  (or {document['token_path']})")
    screen.print(f"  [dim]secret         [/dim] {secret}")
    if callback_url:
        screen.print(f"  [dim]callback secret[/dim] {callback_secret}")
    screen.print("  Keep what is secret now; it is not shown again.")


def _new_app(
    shard: Shard, name: str, scheme: str, direct: bool, callback_url: str | None, secret: str, callback_secret: str
) -> Any:
    from gateway.apps import App, CallbackSettings, check_app
    from gateway.asgi import master_keys
    from gateway.egress import check_url, read_policy
    from gateway.machine import ensure_master_key
    from gateway.secrets import SecretRef, seal

    refusal = callback_url and check_url(read_policy(shard.settings.egress_allow), callback_url)
    if refusal:
        fail(f"--callback-url: {refusal}")
    ensure_master_key(shard.settings)
    keys, owner = master_keys(shard.settings), f"app:{name}"
    sealed = {"sealed": seal(keys, owner, secret)}
    callback = None
    if callback_url:
        callback = CallbackSettings(url=callback_url, secret=SecretRef(sealed=seal(keys, owner, callback_secret)))
    app = App(
        name=name,
        adapter="direct" if direct else None,
        verify={"scheme": scheme, "secrets": [sealed]},
        callback=callback,
    )
    check_app(app)
    return app


@apps.command("disable")
def disable_app(name: Changed, json: Json = False) -> None:
    """Answer 403 to whatever it sends, until it is enabled again."""
    import msgspec

    _change_app(name, lambda app: msgspec.structs.replace(app, disabled=True), "is disabled", json)


@apps.command("enable")
def enable_app(name: Changed, json: Json = False) -> None:
    """Let a disabled app send again."""
    import msgspec

    _change_app(name, lambda app: msgspec.structs.replace(app, disabled=False), "is enabled", json)


@apps.command("remove")
def remove_app(name: Changed, json: Json = False) -> None:
    """Forget an app; its address is not found any more. Its runs stay."""
    _change_app(name, lambda _: None, "is removed", json)


@apps.command("rotate-secret")
def rotate_secret(name: Changed, json: Json = False) -> None:
    """Give an app a new secret, shown once. The one it had is taken as well, until the next rotation."""
    made: list[str] = []

    async def work(shard: Shard) -> Any:
        return await shard.catalog.change_app(name, lambda app: _rotated(shard, app, made))

    app = with_store(work)
    if json:
        print_json(_app_words(app) | {"secret": made[-1]})
        return
    screen = out()
    screen.print(f"[green]✔[/green] app [bold]{app.name}[/bold] has a new secret; the old one is taken as well")
    screen.print(f"  [dim]secret[/dim] {made[-1]}\n  Keep it now; it is not shown again.")


def _rotated(shard: Shard, app: Any, made: list[str]) -> Any:
    import msgspec

    from gateway.apps import read_verify
    from gateway.asgi import master_keys
    from gateway.errors import Conflict
    from gateway.machine import ensure_master_key
    from gateway.secrets import seal

    references = read_verify(app)[1]
    if not isinstance(app.verify, dict) or not references:
        message = f"app {app.name!r} has no secret to rotate"
        raise Conflict(message)
    ensure_master_key(shard.settings)
    made.append(_new_secret({part: value for part, value in app.verify.items() if part != "secrets"}))
    sealed = {"sealed": seal(master_keys(shard.settings), f"app:{app.name}", made[-1])}
    secrets = [sealed, msgspec.to_builtins(references[0])]
    return msgspec.structs.replace(app, verify=app.verify | {"secrets": secrets})


def _change_app(name: str, change: Callable[[Any], Any], done: str, json: bool) -> None:
    app = with_store(lambda shard: shard.catalog.change_app(name, change))
    if json:
        print_json(_app_words(app))
        return
    out().print(f"[green]✔[/green] app [bold]{app.name}[/bold] {done}")


async def _read_apps(shard: Shard) -> list[Any]:
    return sorted((await shard.catalog.read()).apps.values(), key=lambda each: each.id)


def _app_words(app: Any) -> dict[str, Any]:
    from gateway.documents import describe_app, plain

    with plainly():
        return plain(describe_app(app))


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
    from gateway.tokens import SCOPES, new_token, read_grant

    scopes = scope or ["runs:start", "runs:read"]
    unknown = [each for each in scopes if read_grant(each) is None]
    if unknown:
        narrowed = "each but admin narrowed with @workflow:NAME or @app:NAME"
        fail(f"there is no scope {unknown[0]!r}; scopes: {', '.join(SCOPES)}, {narrowed}", code=2)
    try:
        allowance = None if credits is None else Allowance(credits, refill)
    except ValueError as error:
        fail(f"--refill: {error}", code=2)
    text, token = new_token(name, scopes, time.time(), None if days is None else days * 86_400, allowance)
    with_store(lambda shard: shard.catalog.put_token(token))
    if json:
        print_json(_token_words(token) | {"token": text})
        return
    out().print(
        f"[green]✔[/green] token [bold]{name}[/bold] ({', '.join(scopes)})\n\n  {text}\n\n  Keep it now; it is not shown again."
    )
    out().print(f"\n  Try it:\n\n{_first_call(scopes, text)}", markup=False)


def _first_call(scopes: list[str], text: str) -> str:
    """A curl command for the first route that the token may use."""
    from gateway.settings import read_settings
    from gateway.tokens import read_grant
    from gateway.web.api import API
    from gateway.web.samples import curl

    carried = {grant.scope for each in scopes if (grant := read_grant(each))}
    row = next(each for each in API.endpoints if each.scope in carried or "admin" in carried or each.scope is None)
    settings = read_settings()
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104  compared, not bound
    return curl(API, row, f"http://{host}:{settings.port}", text)


@tokens.command("list")
def list_tokens(json: Json = False) -> None:
    """All tokens, without their secrets."""
    found = [_token_words(each) for each in with_store(_read_tokens)]
    if json:
        print_json(found)
        return
    rows = table("id", "name", "status", "scopes", "created", "expires")
    for each in found:
        expires = local_time(each["expires_at"]) if each["expires_at"] else "never"
        rows.add_row(
            each["id"],
            each["name"],
            coloured(each["status"]),
            ", ".join(each["scopes"]),
            local_time(each["created_at"]),
            expires,
        )
    out().print(rows if found else "no tokens yet")


@tokens.command("revoke")
def revoke_token(token_id: Annotated[str, typer.Argument(help="The token's id or name.")], json: Json = False) -> None:
    """End a token at once."""
    import msgspec

    async def work(shard: Shard) -> Any:
        named = [
            each for each in await _read_tokens(shard) if token_id in (each.id, each.name) and each.revoked_at is None
        ]
        if len(named) != 1:
            return None if not named else "several"
        revoked = msgspec.structs.replace(named[0], revoked_at=int(time.time()))
        await shard.catalog.put_token(revoked)
        return revoked

    revoked = with_store(work)
    if revoked is None:
        fail(f"there is no live token {token_id!r}; `gateway token list` shows those there are")
    if revoked == "several":
        fail(f"several tokens are called {token_id!r}; name one by its id")
    if json:
        print_json(_token_words(revoked))
        return
    out().print(f"[green]✔[/green] token [bold]{revoked.name}[/bold] is revoked")


async def _read_tokens(shard: Shard) -> list[Any]:
    return sorted((await shard.catalog.read()).tokens.values(), key=lambda each: each.created_at)


def _token_words(token: Any) -> dict[str, Any]:
    from gateway.documents import describe_token, plain

    return plain(describe_token(token, time.time()))


def _new_secret(written: object) -> str:
    """A secret of the form that senders of this scheme use."""
    from gateway.signatures import read_scheme

    with plainly():
        scheme = read_scheme(written, "scheme")
    raw = randomness.token_bytes(32)
    if scheme.key in ("whsec", "base64"):
        return ("whsec_" if scheme.key == "whsec" else "") + _base64(raw)
    return "gateway:" + raw.hex() if scheme.kind == "basic" else raw.hex()


def _base64(raw: bytes) -> str:
    import base64

    return base64.b64encode(raw).decode()
