"""Our own API: the same objects as the commands print, over HTTP, with a Bearer token.

Lists come newest first, a page at a time: `next_cursor` asks for the page after. Errors are RFC 9457 problems.
Every write takes an `Idempotency-Key`.
"""

from __future__ import annotations

from gateway.web.api_apps import APPS
from gateway.web.api_audit import AUDIT
from gateway.web.api_callbacks import CALLBACKS
from gateway.web.api_endpoints import ENDPOINTS
from gateway.web.api_events import EVENTS
from gateway.web.api_hooks import HOOKS
from gateway.web.api_redeliveries import REDELIVERIES
from gateway.web.api_replays import REPLAYS
from gateway.web.api_runs import RUNS
from gateway.web.api_secrets import SECRETS
from gateway.web.api_steering import STEERING
from gateway.web.api_tokens import TOKENS
from gateway.web.api_workflows import WORKFLOWS
from gateway.web.callers import bearer
from gateway.web.endpoints import Dialect
from gateway.web.problems import refuse

API = Dialect(
    name="gateway",
    # Without a prefix: what lies beside these paths may be another dialect's.
    prefix="",
    credential=bearer(b"authorization"),
    refuse=refuse,
    media_type="application/problem+json",
    keyed=True,
    endpoints=(
        *RUNS,
        *STEERING,
        *REPLAYS,
        *EVENTS,
        *REDELIVERIES,
        *CALLBACKS,
        *WORKFLOWS,
        *APPS,
        *ENDPOINTS,
        *HOOKS,
        *TOKENS,
        *SECRETS,
        *AUDIT,
    ),
)
