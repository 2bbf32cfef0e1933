"""What happened to a delivery: found under any of its names, and explained from what the store holds of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from gateway.apps import App, rules_of
from gateway.captures import Capture
from gateway.deliveries import Explanation, Happened, explain_event, explain_refusal
from gateway.errors import NotFound
from gateway.events import keys_named
from gateway.masks import Mask
from gateway.refused import Kept
from gateway.rules import Rules
from gateway.runs import Run
from gateway.store.reading import Reader, StoredEvent
from gateway.store.refusals import Refused

REFUSED = "rfs_"
OURS = re.compile("(evt|rfs)_[0-9a-f]{28}")
"""Some senders' own ids begin like ours."""
LONGEST_NAME = 1000
MOST_FOUND = 20


class Inquiry:
    """Looks deliveries up. What the asker may see is for those who ask for them to judge, by `apps_of` and the event."""

    def __init__(self, reader: Reader, refused: Refused) -> None:
        self.reader = reader
        self.refused = refused

    async def find(self, name: str, app_ids: Collection[int]) -> list[str]:
        """The ids of events and refused deliveries that are called so: by us, or by the sender of one of these apps.

        Events come first. A sender's own id is known while the dedupe window is open. Raises NotFound.
        """
        if OURS.fullmatch(name):
            return [name]
        short = name if len(name) <= LONGEST_NAME else ""
        found = await self.reader.events_seen([key for app_id in app_ids for key in keys_named(app_id, short)])
        found += (await self.refused.named(short))[:MOST_FOUND] if short else []
        if not found:
            raise unknown(name)
        return found

    async def explain(self, delivery: StoredEvent | Kept, apps: Mapping[int, App], mask: Mask) -> Explanation:
        """What happened to one delivery, with secrets masked."""
        app = _app_of(delivery, apps)
        rules = await self._rules(delivery, app)
        if isinstance(delivery, Kept):
            return explain_refusal(delivery, app, rules, mask)
        return explain_event(await self._gather(delivery), app, rules, mask)

    async def capture(self, delivery: StoredEvent | Kept, apps: Mapping[int, App]) -> Capture:
        """One delivery as a captured request. Of an event only the headers are there that it keeps."""
        rules = await self._rules(delivery, _app_of(delivery, apps))
        labels = tuple(each.label for each in rules.secrets)
        if isinstance(delivery, Kept):
            kept = delivery.refusal
            return Capture(
                method=kept.method,
                url=kept.path,
                headers=tuple(kept.headers),
                body=delivery.body,
                received_at=kept.at,
                scheme=rules.scheme,
                app_id=kept.app_id,
                secrets_from=labels,
            )
        head = delivery.head
        return Capture(
            method="POST",
            url="" if head.app_id is None else f"/api/v1/webhooks/{head.app_id}",
            headers=tuple(head.headers.items()),
            body=delivery.body,
            received_at=delivery.received_at,
            scheme=rules.scheme,
            app_id=head.app_id,
            secrets_from=labels,
        )

    async def read(self, delivery_id: str) -> StoredEvent | Kept:
        """One event, or one refused delivery, by our own id. Raises NotFound."""
        return await (
            self.refused.one(delivery_id) if delivery_id.startswith(REFUSED) else self.reader.event(delivery_id)
        )

    async def _rules(self, delivery: StoredEvent | Kept, app: App | None) -> Rules:
        """The rules by which it was judged; where they were not kept, those of its app now."""
        decision = delivery.refusal.decision if isinstance(delivery, Kept) else delivery.head.decision
        kept = None if decision.rules is None else await self.reader.rules(decision.rules)
        if kept is None:
            return Rules() if app is None else rules_of(app)
        return kept

    async def _gather(self, event: StoredEvent) -> Happened:
        ids = list(dict.fromkeys((*event.run_ids, *event.head.decision.skipped)))
        runs = {run_id: await self._run(run_id) for run_id in ids}
        callbacks = {run_id: await self.reader.callbacks_of(run_id) for run_id in event.run_ids if runs[run_id]}
        return Happened(
            id=event.id,
            head=event.head,
            received_at=event.received_at,
            body=event.body,
            repeats=event.repeats,
            repeated_at=event.repeated_at,
            runs=runs,
            callbacks=callbacks,
        )

    async def _run(self, run_id: int) -> Run | None:
        try:
            return await self.reader.locate(await self.reader.run(run_id))
        except NotFound:
            return None


def unknown(name: str) -> NotFound:
    """What is said of a name that nothing has, or nothing that the asker may see: senders' own names can be guessed."""
    message = f"there is no event or refused delivery {name[:80]!r}; a sender's own id is known for a while only"
    return NotFound(message)


def app_id_of(delivery: StoredEvent | Kept) -> int | None:
    """Whose delivery it is."""
    return delivery.refusal.app_id if isinstance(delivery, Kept) else delivery.head.app_id


def _app_of(delivery: StoredEvent | Kept, apps: Mapping[int, App]) -> App | None:
    app_id = app_id_of(delivery)
    return None if app_id is None else apps.get(app_id)
