"""What is asked of GitHub's API: the list of a hook's deliveries, and to send one again."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.reconciling import Delivery, ReconcileSettings, read_cursor, read_page
from gateway.web.client import Answer, Client

PAGE_CAP = 4_000_000
MOST_PAGES = 200
PER_PAGE = 100
PATIENCE = 30.0


class GitHubRefused(GatewayError):
    """GitHub's API did not do what was asked of it."""

    code = "github_refused"


class GitHub:
    """One hook's deliveries, with one token. Every failure is GitHubRefused, in words that hold no secret."""

    def __init__(self, client: Client, settings: ReconcileSettings, token: str) -> None:
        self._client = client
        self._url = settings.api.rstrip("/") + settings.path
        self._headers = {
            "accept": "application/vnd.github+json",
            "authorization": f"Bearer {token}",
            "x-github-api-version": "2022-11-28",
        }

    async def deliveries(self, since: int) -> list[Delivery]:
        """All attempts since then (ms), and the rest of the page that the first of them is on; at most MOST_PAGES."""
        found: list[Delivery] = []
        cursor: str | None = ""
        for _ in range(MOST_PAGES):
            query = f"?per_page={PER_PAGE}" + (f"&cursor={cursor}" if cursor else "")
            answer = await self._ask("GET", query, 200)
            try:
                page = read_page(answer.body)
            except ValueError as error:
                message = f"GitHub's list of deliveries can't be read: {error}"
                raise GitHubRefused(message) from None
            found += page
            cursor = read_cursor(next((value for name, value in answer.headers if name == "link"), None))
            if not cursor or not page or min(each.at for each in page) < since:
                return found
        return found

    async def send_again(self, delivery: Delivery) -> None:
        """Ask for a delivery once more. GitHub answers before it sends."""
        await self._ask("POST", f"/{delivery.id}/attempts", 202)

    async def _ask(self, method: str, path: str, wanted: int) -> Answer:
        url = self._url + path
        answer = await self._client.request(method, url, headers=self._headers, total_timeout=PATIENCE, cap=PAGE_CAP)
        if not isinstance(answer, Answer):
            message = f"GitHub's API can't be reached ({answer.public_reason}); see the log"
            raise GitHubRefused(message, detail=answer.detail)
        if answer.status != wanted or answer.truncated:
            raise GitHubRefused(_complaint(method, answer))
        return answer


def _complaint(method: str, answer: Answer) -> str:
    if answer.truncated:
        return f"GitHub's answer is longer than {PAGE_CAP} bytes"
    advice = {
        401: "the token is wrong or has expired",
        403: 'the token needs "Webhooks: read and write", or GitHub\'s rate limit is used up',
        404: "there is no such hook, or the token may not see it",
        429: "GitHub's rate limit is used up",
    }.get(answer.status, "it should have answered otherwise")
    return f"GitHub's API answered {answer.status} to a {method}: {advice}"
