"""What is missing of a sender's list, when it is asked for, and how far a round got."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app_checks import check_app
from gateway.apps import App
from gateway.errors import ConfigError
from gateway.reconciling import (
    SETTLE_MS,
    WAITS_MS,
    Asked,
    Delivery,
    Mark,
    advance,
    find_gap,
    guids_of,
    read_cursor,
    read_page,
)

NOW = 1_700_000_000_000
MINUTE = 60_000
RECONCILE = {"repository": "acme/site", "hook": 7, "token": {"env": "T"}}


def delivery(number: int, guid: str, minutes_ago: float = 10, event: str = "push") -> Delivery:
    at = datetime.fromtimestamp((NOW - minutes_ago * MINUTE) / 1000, UTC).isoformat()
    return Delivery(id=number, guid=guid, delivered_at=at, event=event, status_code=502)


def app(**changes: object) -> App:
    fields: dict[str, object] = {
        "name": "github",
        "verify": {"scheme": "github", "secrets": [{"env": "S"}]},
        "reconcile": RECONCILE,
    }
    import msgspec

    return msgspec.convert(fields | changes, App)


def test_what_came_in_is_not_missing_and_what_did_not_is_asked_for_once() -> None:
    """Of several attempts at one delivery the newest is asked for; the oldest delivery has its turn first."""
    listed = [delivery(4, "b", 5), delivery(3, "a", 6), delivery(2, "known", 7), delivery(1, "a", 8)]
    gap = find_gap(listed, {"known"}, Mark(at=NOW - 20 * MINUTE), NOW)
    assert [(each.guid, each.id) for each in gap.ask] == [("a", 3), ("b", 4)]
    assert gap.listed == 3


def test_a_ping_and_what_is_on_its_way_are_not_missing() -> None:
    """A ping starts nothing; a delivery of the last minute may still be coming in."""
    listed = [delivery(2, "young", (SETTLE_MS - 1000) / MINUTE), delivery(1, "hello", 9, event="ping")]
    assert find_gap(listed, set(), Mark(at=0), NOW).missing == ()
    assert guids_of(listed) == ["young"]


def test_the_mark_stays_before_what_may_still_be_brought_in() -> None:
    """Else the next round would not list it any more."""
    listed = [delivery(3, "later", 3), delivery(2, "lost", 9), delivery(1, "lost", 30)]
    mark = Mark(at=NOW - 60 * MINUTE)
    after = advance(mark, find_gap(listed, {"later"}, mark, NOW), ["lost"], listed, NOW)
    assert after.at == NOW - 30 * MINUTE
    assert after.asked == {"lost": Asked(1, NOW)}


def test_the_mark_goes_on_when_nothing_is_missing() -> None:
    """Up to the newest delivery that is old enough to be judged."""
    listed = [delivery(2, "young", 0.5), delivery(1, "known", 3)]
    mark = Mark(at=NOW - 60 * MINUTE)
    after = advance(mark, find_gap(listed, {"known"}, mark, NOW), [], listed, NOW)
    assert (after.at, after.missing) == (NOW - 3 * MINUTE, 0)


def test_one_that_does_not_come_is_asked_for_less_and_less_often_and_then_given_up() -> None:
    """So a door that is closed for a day loses nothing, and a refusal that stands is not asked about for ever."""
    listed, mark, now, asks = [delivery(1, "lost")], Mark(at=NOW - 20 * MINUTE), NOW, []
    for _ in range(2000):
        gap = find_gap(listed, set(), mark, now)
        if gap.ask:
            asks.append(now - NOW)
        mark = advance(mark, gap, [each.guid for each in gap.ask], listed, now)
        if gap.given_up:
            break
        now += 5 * MINUTE
    assert len(asks) == len(WAITS_MS)
    assert asks[:3] == [0, 5 * MINUTE, 20 * MINUTE]
    assert 24 * 60 * MINUTE < asks[-1] < 48 * 60 * MINUTE
    assert mark.given_up == 1
    assert mark.at == NOW - 10 * MINUTE


@given(
    st.lists(st.tuples(st.integers(0, 6), st.floats(0, 90), st.booleans()), max_size=20),
    st.integers(0, 100),
)
def test_a_round_never_forgets_what_is_missing(rows: list[tuple[int, float, bool]], minutes: int) -> None:
    """Whatever is listed: the mark moves forward only, and nothing that may still be asked for lies behind it."""
    listed = [delivery(number, f"g{guid}", age) for number, (guid, age, _) in enumerate(rows, 1)]
    known = {f"g{guid}" for guid, _, came in rows if came}
    mark = Mark(at=NOW - minutes * MINUTE)
    gap = find_gap(listed, known, mark, NOW)
    after = advance(mark, gap, [], listed, NOW)
    assert after.at >= mark.at
    assert not {each.guid for each in gap.missing} & known
    assert all(after.at <= max(each.at, mark.at) for each in gap.ask)


@pytest.mark.parametrize(
    ("link", "cursor"),
    [
        ('<https://api.github.com/x?per_page=100&cursor=v1_12>; rel="next"', "v1_12"),
        ('<https://x/?cursor=a>; rel="prev", <https://evil.example/?cursor=b&c=1>; rel="next"', "b"),
        ('<https://x/?cursor=a>; rel="prev"', None),
        ('<https://x/?page=2>; rel="next"', None),
        ("", None),
        (None, None),
    ],
)
def test_only_the_cursor_of_the_next_page_is_taken_from_a_link(link: str | None, cursor: str | None) -> None:
    """The address in it is never followed, wherever it leads."""
    assert read_cursor(link) == cursor


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"id": "x"}]', b'[{"id":1,"guid":"g","delivered_at":"yesterday"}]'])
def test_what_is_no_list_is_a_value_error(body: bytes) -> None:
    """Half a page must not look like one on which nothing is missing."""
    with pytest.raises(ValueError):
        read_page(body)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"verify": {"scheme": "stripe", "secrets": [{"env": "S"}]}}, "reconcile"),
        ({"reconcile": RECONCILE | {"organization": "acme"}}, "reconcile.repository"),
        ({"reconcile": {"hook": 7, "token": {"env": "T"}}}, "reconcile.repository"),
        ({"reconcile": RECONCILE | {"repository": "../.."}}, "reconcile.repository"),
        ({"reconcile": RECONCILE | {"every": "1s"}}, "reconcile.every"),
        ({"reconcile": RECONCILE | {"api": "ftp://api"}}, "reconcile.api"),
    ],
)
def test_settings_that_can_not_work_are_refused_by_field(changes: dict[str, object], path: str) -> None:
    """With the field that is wrong, when the file is checked."""
    with pytest.raises(ConfigError) as caught:
        check_app(app(**changes))
    assert caught.value.details["path"] == path


def test_settings_that_can_work_are_taken() -> None:
    """A repository's hook, and an organization's."""
    check_app(app())
    check_app(app(reconcile={"organization": "acme", "hook": 1, "token": {"file": "t"}, "every": 3600}))
