"""Twilio: HMAC of the URL and, of a form, of its fields sorted by name.

Of any other body the URL has the hash, in a field `bodySHA256` of its query. Fields are joined without separators, so
`ab=c` signs what `a=bc` signs: that is Twilio's, not ours. Twilio may sign a URL with or without the port, so both count.
It signs with SHA-1, or with SHA-256 where the account has a shared key for webhooks; which one, the scheme says, never the
request.

Source: Twilio, "Security: validating requests", and twilio-python, `twilio/request_validator.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from gateway.proofs import FORM_TYPE, Request, Verdict, query_of, read_field, read_proof, refuse, split_form
from gateway.schemes import Scheme
from gateway.verifiers.claims import unsignable
from gateway.verifiers.encodings import decode_base64, encode_base64
from gateway.verifiers.keys import DIGEST_SIZES, compute_digest, find_match, judge_match, read_key, read_keys
from gateway.verifiers.placing import Signed, add_query, add_value

HASH_FIELD: Final = "bodySHA256"
PORTS: Final = {"https": 443, "http": 80}


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The digest over either spelling of the URL, under any of the secrets, and the hash of a body that is no form."""
    keys, fault = read_keys(scheme.key, secrets)
    value = read_proof(scheme.plan.proof, request)
    if isinstance(value, Verdict):
        return fault or value
    shown = decode_base64(value)
    if not shown or len(shown) != DIGEST_SIZES[scheme.alg]:
        return fault or refuse("bad_encoding")
    fields = read_fields(request)
    if isinstance(fields, Verdict):
        return fault or fields
    urls = spell_url(request.url)
    if not urls:
        return fault or refuse("missing_context")
    matches = [find_match([compute_digest(key, (url, fields), scheme.alg) for key in keys], (shown,)) for url in urls]
    return judge_match(next((match for match in matches if match is not None), None), fault)


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The digest; a body that is no form puts its hash into the URL. Raises ConfigError when there is no URL."""
    url = None
    if request.body and not is_form(request) and read_field(query_of(request), HASH_FIELD) is None:
        url = add_query(request.url, f"{HASH_FIELD}={hashlib.sha256(request.body).hexdigest()}")
    whole = Signed(url=url).over(request)
    fields = read_fields(whole)
    if isinstance(fields, Verdict):
        raise unsignable(fields)
    if not whole.url:
        raise unsignable(refuse("missing_context"))
    digest = compute_digest(read_key(scheme.key, secret), (whole.url.encode("utf-8"), fields), scheme.alg)
    signature = add_value(scheme.plan.proof, encode_base64(digest), request, scheme.header)
    return Signed(signature.headers, url=url)


def read_content(scheme: Scheme, request: Request) -> bytes:
    """What is signed of query and form, in whichever order and encoding the fields came; of other bodies the bytes."""
    fields = join_fields(request.body) if is_form(request) else request.body
    return request.body if isinstance(fields, Verdict) else query_of(request) + b"\0" + fields


def read_fields(request: Request) -> bytes | Verdict:
    """What is signed of the body: a form's fields; nothing, where the URL has the body's hash or there is no body."""
    told = HASH_FIELD.encode() in query_of(request)
    if told and not is_body_of(request):
        return refuse("mismatch")
    if is_form(request):
        return join_fields(request.body)
    return b"" if told or not request.body else refuse("malformed_url")


def is_form(request: Request) -> bool:
    kinds = request.values("content-type")
    return len(kinds) == 1 and FORM_TYPE.fullmatch(kinds[0].strip()) is not None


def is_body_of(request: Request) -> bool:
    """True when the hash in the URL's query, given once, is the body's."""
    told = read_field(query_of(request), HASH_FIELD) or b""
    right = hashlib.sha256(request.body).hexdigest().encode("ascii")
    return hmac.compare_digest(told.lower(), right)


def join_fields(form: bytes) -> bytes | Verdict:
    """Names and values, sorted by name; of a name that stands several times, each of its values once, sorted."""
    pairs = split_form(form)
    if pairs is None:
        return refuse("malformed_body")
    decoded = {(unquote_to_bytes(key), unquote_to_bytes(value)) for key, value in pairs if key or value}
    return b"".join(key + value for key, value in sorted(decoded))


def spell_url(url: str) -> Sequence[bytes]:
    """The URL as given, without its port, and with the port that its scheme implies; none for what is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        return ()
    user, at, host = parts.netloc.rpartition("@")
    bare = re.sub(r":\d*\Z", "", host)
    # The rest as it came: writing a URL anew may change it.
    rest = url[url.index("//") + 2 + len(parts.netloc) :]
    spellings = (parts.netloc, user + at + bare, f"{user}{at}{bare}:{port}")
    start = url[: url.index("//") + 2]
    return [f"{start}{each}{rest}".encode("utf-8", "surrogatepass") for each in dict.fromkeys(spellings)]
