"""Allow-lists: which URLs a single request may have its callback sent to, by a corpus of tricks."""

from __future__ import annotations

import pytest

from gateway.allowlists import read_pattern, refusal_of
from gateway.errors import ConfigError

EXACT = "https://hooks.example.com/in"
WILD = "https://*.example.com/in/"
PORT = "https://hooks.example.com:8443"
LOCAL = "http://127.0.0.1:9"

ALLOWED = [
    (EXACT, "https://hooks.example.com/in"),
    (EXACT, "https://hooks.example.com/in/"),
    (EXACT, "https://hooks.example.com/in/1/2?a=b"),
    (EXACT, "https://hooks.example.com/in?next=https://elsewhere.example/../x"),
    (EXACT, "https://HOOKS.Example.COM/in"),
    (EXACT, "https://hooks.example.com:443/in"),
    (EXACT, "HTTPS://hooks.example.com/in"),
    (WILD, "https://a.example.com/in/x"),
    (WILD, "https://b.a.example.com/in"),
    (PORT, "https://hooks.example.com:8443/anything"),
    (LOCAL, "http://127.0.0.1:9/told"),
]
REFUSED = [
    # another host that looks alike
    (EXACT, "https://hooks.example.com.evil.example/in"),
    (EXACT, "https://evilhooks.example.com/in"),
    (EXACT, "https://a.hooks.example.com/in"),
    (EXACT, "https://example.com/in"),
    (EXACT, "https://hooks.example.com./in"),
    (EXACT, "https://hooks.example.com@evil.example/in"),
    (EXACT, "https://hooks.example.com:x@evil.example/in"),
    (EXACT, "https://evil.example#@hooks.example.com/in"),
    (EXACT, "https://evil.example\\@hooks.example.com/in"),
    (EXACT, "https://evil.example/hooks.example.com/in"),
    (EXACT, "https://evil.example/?https://hooks.example.com/in"),
    (EXACT, "https://hooks.example.com%2eevil.example/in"),
    (EXACT, "https://hooks。example。com/in"),
    (EXACT, "https://ｈooks.example.com/in"),
    (EXACT, "https:///hooks.example.com/in"),
    (EXACT, "https:hooks.example.com/in"),
    (EXACT, "//hooks.example.com/in"),
    (WILD, "https://example.com/in/x"),
    (WILD, "https://.example.com/in/x"),
    (WILD, "https://evilexample.com/in/x"),
    (WILD, "https://a.example.com.evil.example/in/x"),
    (WILD, "https://*.example.com/in/x"),
    (WILD, "https://10.0.0.1/in/x"),
    (WILD, "https://[::1]/in/x"),
    # another scheme or port
    (EXACT, "http://hooks.example.com/in"),
    (EXACT, "ftp://hooks.example.com/in"),
    (EXACT, "javascript://hooks.example.com/in"),
    (EXACT, "https://hooks.example.com:8443/in"),
    (EXACT, "https://hooks.example.com:80/in"),
    (EXACT, "https://hooks.example.com:0443443/in"),
    (PORT, "https://hooks.example.com/anything"),
    (LOCAL, "http://127.0.0.1/told"),
    (LOCAL, "http://127.1:9/told"),
    (LOCAL, "http://localhost:9/told"),
    # a path that is another one
    (EXACT, "https://hooks.example.com/"),
    (EXACT, "https://hooks.example.com"),
    (EXACT, "https://hooks.example.com/inside"),
    (EXACT, "https://hooks.example.com/IN"),
    (EXACT, "https://hooks.example.com/%69n"),
    (EXACT, "https://hooks.example.com/in/../admin"),
    (EXACT, "https://hooks.example.com/in/.."),
    (EXACT, "https://hooks.example.com/in/./x"),
    (EXACT, "https://hooks.example.com/in/%2e%2e/admin"),
    (EXACT, "https://hooks.example.com/in/%2E./admin"),
    (EXACT, "https://hooks.example.com/in%2f..%2fadmin"),
    (EXACT, "https://hooks.example.com/in/%5c../admin"),
    (EXACT, "https://hooks.example.com//in"),
    (EXACT, "https://hooks.example.com/in//x"),
    (EXACT, "https://hooks.example.com/in;/../admin"),
    (EXACT, "https://hooks.example.com/in/%252e%252e/admin"),
    (EXACT, "https://hooks.example.com/in/%c0%ae%c0%ae/admin"),
    (EXACT, "https://hooks.example.com/in/%u002e%u002e/admin"),
    (EXACT, "https://hooks.example.com/in/..%09/admin"),
    (EXACT, "https://hooks.example.com/in/..%7F/admin"),
    (EXACT, "https://hooks.example.com/in#x"),
    (EXACT, "https://hooks.example.com/in\n/x"),
    (EXACT, "https://hooks.example.com/in x"),
    (EXACT, " https://hooks.example.com/in"),
    (EXACT, ""),
    (EXACT, "https://hooks.example.com/in/" + "x" * 9000),
]


@pytest.mark.parametrize(("pattern", "url"), ALLOWED)
def test_what_a_pattern_means_is_allowed(pattern: str, url: str) -> None:
    """Its host, or a host below a wildcard; its port; its path and what is below that."""
    assert refusal_of([read_pattern(pattern, "it")], url) is None


@pytest.mark.parametrize(("pattern", "url"), REFUSED)
def test_what_only_looks_like_it_is_refused(pattern: str, url: str) -> None:
    """Another host, scheme, port or path, however it is written, is refused with a reason."""
    assert refusal_of([read_pattern(pattern, "it")], url)


def test_one_of_several_patterns_is_enough() -> None:
    """A URL that fits any of them is allowed; without any, none is."""
    patterns = [read_pattern(text, "it") for text in (EXACT, PORT)]
    assert refusal_of(patterns, "https://hooks.example.com:8443/x") is None
    assert "callback_urls" in (refusal_of([], "https://hooks.example.com/in") or "")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("https://*/x", "host"),
        ("https://*.com/x", "two labels"),
        ("https://*.*.example.com/x", "host"),
        ("https://a.*.example.com/x", "host"),
        ("https://a*.example.com/x", "host"),
        ("https://*.10.0.0.1/x", "two labels"),
        ("http://hooks.example.com/x", "https"),
        ("http://*.example.com/x", "https"),
        ("https://hooks.example.com/x*", "beginning"),
        ("https://hooks.example.com/x?y=1", "query"),
        ("https://hooks.example.com/x/../y", "`..`"),
        ("https://user@hooks.example.com/x", "user name"),
        ("hooks.example.com", "https://host/path"),
        ("*", "https://host/path"),
    ],
)
def test_a_pattern_that_allows_too_much_is_refused(pattern: str, words: str) -> None:
    """What its writer can't have meant is a mistake, with the reason."""
    with pytest.raises(ConfigError, match="it: ") as caught:
        read_pattern(pattern, "it")
    assert words in caught.value.message
