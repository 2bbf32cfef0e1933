"""Publishing workflows, for the API's doors and for the commands: upload, label, compare, roll back, remove.

A rollback is a new publication with the old text and a new number, not a pointer moved back: the numbers then tell, in
order, what new runs started with; nothing that was published is forgotten; and file, command and API go back alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec

from gateway.configuration import read_draft
from gateway.errors import NotFound, Unprocessable
from gateway.places import Mistakes
from gateway.store.catalog import Catalog
from gateway.versions import (
    Difference,
    Draft,
    Publication,
    Version,
    check_label,
    differ,
    find_version,
    version_before,
)
from gateway.workflows import Published, refuse_code, refuse_secrets


async def _tell_nobody() -> None:
    """Where no copy is held, there is nobody to tell."""


class Publishing:
    """Workflows as they are published and compared. Which workflow a caller may touch was checked before.

    `told` brings the copy that this process holds up to date; `trusted` are the names in GATEWAY_TRUSTED_WORKFLOWS.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        trusted: Collection[str] = (),
        told: Callable[[], Awaitable[None]] = _tell_nobody,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._trusted = trusted
        self._told = told
        self._clock = clock

    async def find(self, name: str) -> Published:
        """The published workflow with this id or name, from the store. Raises NotFound."""
        found = (await self._catalog.read()).workflows
        published = found.get(name) or next((each for each in found.values() if str(each.id) == name), None)
        if published is None:
            message = f"there is no workflow {name!r}; `gateway workflow list` shows those there are"
            raise NotFound(message)
        return published

    async def upload(self, document: Any, *, admin: bool, label: str | None = None) -> Publication:
        """Publish one workflow that somebody sent; `admin` is whether they may do everything.

        Raises Unprocessable with all `mistakes` for one that can't be used, Forbidden for code or secrets that they
        may not define, Conflict when gateway.yaml manages its name or its id or label is taken.
        """
        try:
            draft = read_draft(document)
        except Mistakes as error:
            mistakes = [{"path": each.path, "message": each.message} for each in error.mistakes]
            message = "; ".join(
                f"{each.path}: {each.message}" if each.path else each.message for each in error.mistakes
            )
            raise Unprocessable(message, mistakes=mistakes) from None
        return (await self.publish([draft], admin=admin, label=label))[0]

    async def publish(self, drafts: list[Draft], *, admin: bool, label: str | None = None) -> list[Publication]:
        """Publish several workflows, all or none, each under this label. Raises as `upload` does."""
        check_label(label)
        for draft in drafts:
            refuse_code(draft.workflow.definition, admin, self._trusted)
            refuse_secrets(draft.workflow.definition, admin, self._trusted)
        labelled = [msgspec.structs.replace(draft, label=label) for draft in drafts]
        made = await self._catalog.publish(labelled, at=int(self._clock() * 1000))
        await self._told()
        return made

    async def rollback(self, published: Published, wanted: str | int, *, admin: bool) -> Publication:
        """Publish an earlier version again, as a new one. The one that is published already stays as it is.

        Raises NotFound for an unknown version, Forbidden for code that this caller may not define, and Conflict when
        gateway.yaml manages the workflow.
        """
        version = find_version(await self._catalog.versions(published.name), wanted)
        draft = read_draft(await self._catalog.document(version.digest))
        return (await self.publish([draft], admin=admin))[0]

    async def remove(self, published: Published) -> Published:
        """Take a workflow away: no new run starts with it, those there are go on. Raises NotFound or Conflict."""
        removed = await self._catalog.remove_workflow(published.name)
        await self._told()
        return removed

    async def versions(self, published: Published) -> list[Version]:
        """All versions, the oldest first."""
        return await self._catalog.versions(published.name)

    async def version(self, published: Published, wanted: str | int) -> tuple[Version, Any]:
        """One version, by number or label, with its definition. Raises NotFound."""
        version = find_version(await self._catalog.versions(published.name), wanted)
        return version, await self._catalog.document(version.digest)

    async def compare(
        self, published: Published, before: str | int | None = None, after: str | int | None = None
    ) -> Difference:
        """What changed from one version to another: by default the published one, and the one before it."""
        versions = await self._catalog.versions(published.name)
        newer = find_version(versions, published.version if after is None else after)
        older = version_before(versions, newer) if before is None else find_version(versions, before)
        texts = [await self._catalog.document(each.digest) for each in (older, newer)]
        # Long texts take a while, in which other requests must not wait.
        return await asyncio.to_thread(differ, published.name, older, newer, *texts)
