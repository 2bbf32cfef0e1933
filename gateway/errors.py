"""What can go wrong, as one tree. Each error knows a stable code and a hint of its HTTP status.

GatewayError
├── Refused                what a sender or caller asked for is not done; they can mend it
│   ├── BadRequest         400  the bytes are not what they claim to be
│   ├── Unauthorized       401  no proof, or a wrong one, of who is asking
│   ├── PaymentRequired    402  the caller's credits do not suffice
│   ├── Forbidden          403  who it is, is known; it may not do this
│   ├── NotFound           404
│   ├── MethodNotAllowed   405
│   ├── Timeout            408  the request did not arrive in time
│   ├── Conflict           409  the same key came with other bytes
│   ├── TooLarge           413
│   ├── UnsupportedMedia   415
│   ├── Unprocessable      422  well-formed, but it names or holds something that can't be run
│   └── RateLimited        429  more of these than their workflow's `rate_limit` allows
├── Unavailable            503  our own fault or doubt; the sender should try again
├── ConfigError                 what the operator wrote can't be used; says where and what to do
└── StoreError                  the server behind the store can't be trusted with events

The docstring of a class is its message where none is given.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Something went wrong in the gateway."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retry_after: int | None = None
    """Seconds after which it is worth while to try again, where that is known."""

    def __init__(self, message: str | None = None, **details: object) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.details = details
        super().__init__(self.message)


class Refused(GatewayError):
    """The request is refused."""

    code = "refused"
    status = 400


class BadRequest(Refused):
    """The request is malformed."""

    code = "bad_request"
    status = 400


class Unauthorized(Refused):
    """The request carries no valid proof of who sent it."""

    code = "unauthorized"
    status = 401


class PaymentRequired(Refused):
    """There are not enough credits to start this."""

    code = "insufficient_credits"
    status = 402


class Forbidden(Refused):
    """This sender may not do that."""

    code = "forbidden"
    status = 403


class NotFound(Refused):
    """There is nothing here by that name."""

    code = "not_found"
    status = 404


class MethodNotAllowed(Refused):
    """This path does not take this method."""

    code = "method_not_allowed"
    status = 405


class Timeout(Refused):
    """The request did not arrive in time."""

    code = "timeout"
    status = 408


class Conflict(Refused):
    """This key was already used with another body."""

    code = "conflict"
    status = 409


class TooLarge(Refused):
    """The body is larger than this app accepts."""

    code = "too_large"
    status = 413


class UnsupportedMedia(Refused):
    """This content type or content encoding is not accepted here."""

    code = "unsupported_media_type"
    status = 415


class Unprocessable(Refused):
    """The request is well-formed, but can't be carried out."""

    code = "unprocessable"
    status = 422


class RateLimited(Refused):
    """This workflow takes no more of these for now. Send it again later."""

    code = "rate_limited"
    status = 429
    retry_after = 1

    def __init__(self, message: str | None = None, *, retry_after: int = 1, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class Unavailable(GatewayError):
    """The request could not be stored in time. Send it again."""

    code = "unavailable"
    status = 503
    retry_after = 2


class ConfigError(GatewayError):
    """The configuration can't be used."""

    code = "config"
    status = 422


class StoreError(GatewayError):
    """The Valkey or Redis server can't be used."""

    code = "store"
    status = 503
