"""`receipt verify`, `receipt chain`, `receipt keys`: what signed receipts prove."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, out, plainly, print_json, with_store

if TYPE_CHECKING:
    from gateway.receipts import Place

receipts = typer.Typer(help="Signed receipts: verify one offline, verify an app's chain.", no_args_is_help=True)


@receipts.command("verify")
def verify(
    receipt: Annotated[str, typer.Argument(help="A receipt, or a file with one a line; - reads standard input.")],
    keys: Annotated[
        Path | None, typer.Option(help="The gateway's public keys, as /.well-known/gateway-receipts.json has them.")
    ] = None,
    body: Annotated[Path | None, typer.Option(help="The bytes that were sent, to be held against it.")] = None,
    json: Json = False,
) -> None:
    """Check receipts offline: the signature, the bytes, and of several that none is missing between them."""
    from gateway.receipts import find_fault, read_receipt

    with plainly():
        known = _read_keys(keys)
        places = [read_receipt(text, known) for text in _read_receipts(receipt)]
    fault = _match(places, body)
    for app_id in {place.app_id for place in places}:
        chain = sorted((each for each in places if each.app_id == app_id), key=lambda each: each.number)
        found = find_fault(chain)
        fault = fault or (None if found is None else f"app {app_id}, place {found.number}: {found.reason}")
    if json:
        print_json({"valid": fault is None, "reason": fault, "receipts": [_document(place) for place in places]})
    elif fault is None:
        for place in places:
            _print(place)
    else:
        out().print(f"[red]✘[/red] {fault}")
    raise typer.Exit(0 if fault is None else 1)


@receipts.command("chain")
def chain(
    app: Annotated[str, typer.Argument(help="Id or name of an app with `receipts: true`.")], json: Json = False
) -> None:
    """Walk the chain of an app as it is stored, and hold the events that are still there against it."""
    document = with_store(lambda shard: _walk(shard, app))
    if json:
        print_json(document)
    elif document["valid"]:
        out().print(
            f"[green]✔[/green] {document['places']} places, each follows from the one before it; "
            f"the bytes of {document['events']} events are as they were taken"
        )
    else:
        out().print(f"[red]✘[/red] {document['reason']}")
    raise typer.Exit(0 if document["valid"] else 1)


@receipts.command("keys")
def show_keys() -> None:
    """The public keys, as a JWK set, to give to those who verify receipts offline."""
    from gateway.asgi import master_keys
    from gateway.receipts import Signer
    from gateway.settings import read_settings

    with plainly():
        signer = Signer(master_keys(read_settings()))
    if not signer.can_sign:
        fail("there is no master key to sign with; `gateway up` makes one, or set GATEWAY_MASTER_KEYS")
    print_json(signer.published())


async def _walk(shard: Shard, wanted: str) -> dict[str, Any]:
    from gateway.receipts import find_fault
    from gateway.store.receipting import Chains, PlaceUnreadable

    apps = (await shard.catalog.read()).apps.values()
    app = next((each for each in apps if wanted in (str(each.id), each.name)), None)
    if app is None:
        fail(f"there is no app {wanted!r}; `gateway app list` shows those there are")
    chains, last, events, places = Chains(shard.redis, shard.keys), None, 0, 0
    reason: str | None = None
    try:
        async for page in chains.places(app.id):
            fault = find_fault(page, last)
            reason = None if fault is None else f"place {fault.number}: {fault.reason}"
            for place in () if reason else page:
                now = await chains.body_hash(place.event_id)
                events += now is not None
                if now not in (None, place.sha256):
                    reason = f"place {place.number}: the bytes of event {place.event_id} were changed"
                    break
            places, last = places + len(page), page[-1]
            if reason:
                break
    except PlaceUnreadable as error:
        reason = f"behind place {last.number if last else 0}: {error.message}"
    return {"valid": reason is None, "reason": reason, "places": places, "events": events}


def _read_keys(file: Path | None) -> Any:
    from gateway.asgi import master_keys
    from gateway.receipts import Signer, read_keys
    from gateway.settings import read_settings

    if file is None:
        return Signer(master_keys(read_settings())).keys
    try:
        return read_keys(file.read_bytes())
    except OSError as error:
        fail(f"can't read {file}: {error.strerror}")


def _read_receipts(given: str) -> list[str]:
    if given == "-":
        text = sys.stdin.read()
    elif given.count(".") == 2 and len(given) > 200:
        return [given]
    else:
        try:
            text = Path(given).read_text()
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{given[:80]!r} is neither a receipt nor a file with receipts: {error}")
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return found or fail("there is no receipt in it")


def _match(places: list[Place], body: Path | None) -> str | None:
    if body is None:
        return None
    try:
        digest = hashlib.sha256(body.read_bytes()).hexdigest()
    except OSError as error:
        fail(f"can't read {body}: {error.strerror}")
    wrong = next((place for place in places if place.sha256 != digest), None)
    return None if wrong is None else f"event {wrong.event_id} is of other bytes than {body}"


def _document(place: Place) -> dict[str, Any]:
    from gateway.runs import iso

    return {
        "app_id": place.app_id,
        "number": place.number,
        "event_id": place.event_id,
        "sha256": place.sha256,
        "at": iso(place.at),
        "before": place.before,
        "chain": place.chain,
    }


def _print(place: Place) -> None:
    document = _document(place)
    screen = out()
    screen.print(f"[green]✔[/green] event [bold]{place.event_id}[/bold] was taken at {document['at']}")
    screen.print(f"  [dim]app {place.app_id}, place {place.number}; bytes sha256[/dim] {place.sha256}")
