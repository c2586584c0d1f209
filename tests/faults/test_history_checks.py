"""The checker of histories catches what must not be and lets pass what may: made-up histories, no processes.

In the tables, `at` and the like are seconds of the story, and `wrong` tells whether what is told there is a contradiction.
"""

from __future__ import annotations

import pytest

from tests.support.histories.records import INITIALIZING, READY, STALE, Look, State, Write
from tests.support.histories.tale import PATIENT, Tale


@pytest.fixture
def tale() -> Tale:
    return Tale()


# At which server, and when, what was acknowledged by server 0 at 10.1 is missed.
FOUND_LATER = [
    (0, 10.2, True),  # who acknowledged it knows it at once
    (1, 10.2, False),
    (1, 12.0, False),
    (1, 12.2, True),  # after 2 s everybody does
    (0, 500.0, True),
]


@pytest.mark.parametrize(("server", "at", "wrong"), FOUND_LATER)
@pytest.mark.parametrize("by", ["lists", "gets"])
def test_an_acknowledged_publish_is_lost(tale: Tale, server: int, at: float, wrong: bool, by: str) -> None:
    tale.publish(10.0)
    getattr(tale, by)(at, None, server=server).holds(wrong)


@pytest.mark.parametrize(("at", "wrong"), [(11.7, False), (13.5, False), (13.7, True)])
def test_a_write_that_waited_in_vain_to_be_known_is_acknowledged(tale: Tale, at: float, wrong: bool) -> None:
    """For a second and a half, and then its server knows of it as late as the others."""
    tale.publish(10.0, lasts=1.55)
    tale.lists(at, None, server=0).holds(wrong)


@pytest.mark.parametrize(("server", "at", "wrong"), FOUND_LATER)
@pytest.mark.parametrize("by", ["lists", "gets"])
def test_the_publication_before_is_found(tale: Tale, server: int, at: float, wrong: bool, by: str) -> None:
    before = tale.publish(5.0)
    tale.publish(10.0)
    getattr(tale, by)(at, before, server=server).holds(wrong)


@pytest.mark.parametrize(("server", "at", "wrong"), FOUND_LATER)
@pytest.mark.parametrize("by", ["lists", "gets"])
def test_found_after_an_acknowledged_withdrawal(tale: Tale, server: int, at: float, wrong: bool, by: str) -> None:
    shown = tale.publish(5.0)
    getattr(tale.withdraw(10.0), by)(at, shown, server=server).holds(wrong)


@pytest.mark.parametrize(("server", "at", "wrong"), FOUND_LATER)
def test_an_older_status_is_shown_over_a_newer(tale: Tale, server: int, at: float, wrong: bool) -> None:
    shown = tale.publish(7.5)
    tale.mark(10.0, INITIALIZING).lists(at, shown, server=server).holds(wrong)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("at", [10.2, 12.2, 500.0])
def test_what_was_not_acknowledged_may_have_been_kept_or_not(tale: Tale, at: float, kept: bool) -> None:
    """And at any time: the server that was asked may have been held up."""
    state = tale.publish(10.0, answer=None)
    tale.lists(at, state if kept else None).holds(False)


@pytest.mark.parametrize(
    "shown", [State(2, READY), State(1, INITIALIZING), State(1, STALE)], ids=["unpublished", "never so", "not run out"]
)
def test_a_state_that_never_was(tale: Tale, shown: State) -> None:
    tale.publish(10.0)
    tale.lists(12.2, shown).holds(True)


def test_a_worker_that_nobody_published(tale: Tale) -> None:
    tale.gets(12.1, None, worker="ghost").holds(False)
    tale.lists(12.2, State(1, READY), worker="ghost").holds(True, "nobody ever published it")


@pytest.mark.parametrize(("at", "wrong"), [(9.8, True), (9.95, False)])
def test_a_publication_is_found_before_it_was_asked_for(tale: Tale, at: float, wrong: bool) -> None:
    tale.lists(at, tale.publish(10.0)).holds(wrong)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        (14.2, False),
        (17.0, False),  # 4 s of silence, 1 s of grace, and 2 s until all know
        (17.2, True),
    ],
)
def test_ready_although_its_heartbeat_has_run_out(tale: Tale, at: float, wrong: bool) -> None:
    tale.lists(at, tale.publish(10.0)).holds(wrong)


def test_an_older_publication_has_run_out(tale: Tale) -> None:
    tale.publish(5.0)
    tale.publish(10.0)
    tale.lists(16.0, State(1, STALE)).holds(True)


@pytest.mark.parametrize(("at", "wrong"), [(20.05, False), (20.15, True)])
def test_a_heartbeat_that_comes_while_a_list_is_answered_keeps_ready(tale: Tale, at: float, wrong: bool) -> None:
    shown = tale.publish(10.0)
    tale.lists(20.0, shown).mark(at).holds(wrong)


@pytest.mark.parametrize(("at", "wrong"), [(18.0, False), (24.0, True)])
def test_a_heartbeat_elsewhere_keeps_ready(tale: Tale, at: float, wrong: bool) -> None:
    shown = tale.publish(10.0)
    tale.mark(13.0, server=2).mark(16.0, server=1).lists(at, shown).holds(wrong)


@pytest.mark.parametrize(
    ("shown", "ready"), [(State(1, STALE), False), (None, True)], ids=["shown as STALE", "not shown as READY"]
)
@pytest.mark.parametrize(("at", "wrong"), [(12.2, True), (15.0, True), (17.5, False)])
def test_a_worker_that_lives_is_taken_for_dead(
    tale: Tale, shown: State | None, ready: bool, at: float, wrong: bool
) -> None:
    tale.publish(10.0)
    # A heartbeat is known everywhere 3 s later: 1 s until it is stored, 2 s until it is told.
    tale.mark(11.9, server=2).mark(13.6, server=2).lists(at, shown, ready=ready).holds(wrong)


@pytest.mark.parametrize(
    ("ended", "at", "wrong"),
    [
        (18.0, 19.9, True),
        (16.4, 18.3, False),  # less than 5 s is no outage: it ages
    ],
)
def test_an_outage_of_all_servers_ages_nobody(tale: Tale, ended: float, at: float, wrong: bool) -> None:
    tale.publish(10.0)
    tale.trouble(11.5, ended, 0, 1, 2).lists(at, State(1, STALE)).holds(wrong)


@pytest.mark.parametrize(
    ("killed", "ended", "wrong"),
    [
        (True, 18.4, False),  # a write may have waited for 2 s of it
        (True, 18.6, True),
        (False, 18.6, False),  # a sign of life from the first 5 s may be taken at the end
        (False, 24.0, False),
    ],
)
def test_an_outage_of_redis_ages_nobody(tale: Tale, killed: bool, ended: float, wrong: bool) -> None:
    tale.publish(11.3)
    tale.trouble(11.5, ended, store=True, killed=killed).lists(ended + 0.1, State(1, STALE), server=0).holds(wrong)


@pytest.mark.parametrize(
    ("shown", "ready"), [(State(1, STALE), False), (None, True)], ids=["shown as STALE", "not shown as READY"]
)
@pytest.mark.parametrize(
    ("begun", "at", "wrong"),
    [
        (12.9, 13.5, True),
        (12.9, 14.0, False),
        (12.9, 17.0, False),
        (12.5, 14.0, True),
        (12.5, 17.0, True),
    ],
)
def test_an_outage_that_lasts_ages_nobody_once_it_is_known(
    tale: Tale, shown: State | None, ready: bool, begun: float, at: float, wrong: bool
) -> None:
    """For a second nobody can know that Redis is gone."""
    tale.publish(10.0)
    tale.trouble(begun, 30.0, store=True, killed=True).lists(at, shown, ready=ready).holds(wrong)


@pytest.mark.parametrize(("at", "wrong"), [(17.0, False), (22.5, False), (26.0, True)])
def test_an_outage_keeps_ready(tale: Tale, at: float, wrong: bool) -> None:
    """With Redis away from 12 to 12.5, five more seconds and the two before it need not count."""
    shown = tale.publish(10.0)
    tale.trouble(12.0, 12.5, store=True, killed=True).lists(at, shown).holds(wrong)


@pytest.mark.parametrize(("at", "wrong"), [(13.0, False), (15.9, False), (16.2, True)])
def test_found_after_withdrawal_where_the_feed_is_lost(tale: Tale, at: float, wrong: bool) -> None:
    """Redis is away before server 1 can have heard: after 4 s and 2 s it says nothing rather than that."""
    shown = tale.publish(5.0)
    tale.withdraw(10.0).trouble(10.2, 60.0, store=True).lists(at, shown).holds(wrong)


@pytest.mark.parametrize(
    ("ended", "at", "wrong"),
    [
        (13.2, 11.0, False),
        (13.2, 15.0, False),
        (13.2, 15.3, True),
        (60.0, 59.0, True),  # it answers once it goes on, and looks then how old is what it knows
    ],
)
def test_found_after_withdrawal_at_one_that_was_stopped(tale: Tale, ended: float, at: float, wrong: bool) -> None:
    shown = tale.publish(9.0)
    tale.withdraw(10.0).trouble(10.2, ended, 1)
    tale.history.looks.append(Look(1, at, max(at, ended) + 0.1, {"w": shown}, only="w"))
    tale.holds(wrong)


@pytest.mark.parametrize(
    ("ended", "at", "wrong"),
    [
        (17.0, 14.0, False),
        (17.0, 18.0, False),
        (17.0, 18.2, True),  # nobody answers from what is older
        (12.5, 17.0, False),  # the feed may take 5 s to recover, and servers 2 s to agree
        (12.5, 19.5, True),
    ],
)
def test_a_publish_is_lost_in_an_outage(tale: Tale, ended: float, at: float, wrong: bool) -> None:
    tale.publish(12.0)
    tale.trouble(12.2, ended, store=True, killed=True).lists(at, None).holds(wrong)


@pytest.mark.parametrize("killed", [False, True])
def test_a_heartbeat_that_died_with_its_server(tale: Tale, killed: bool) -> None:
    """It is answered a moment before it is stored; nothing else is."""
    tale.publish(10.0)
    if killed:
        tale.trouble(13.2, 13.5, 2, killed=True)
    tale.mark(12.9, server=2).lists(16.4, State(1, STALE)).holds(not killed)


@pytest.mark.parametrize(
    ("server", "at", "answer", "wrong"),
    [
        (0, 10.2, False, True),
        (1, 10.2, False, True),  # what one server does not know yet it looks up
        (1, 10.2, True, False),
        (1, 12.2, True, False),
        (1, 12.2, None, False),
    ],
)
def test_a_heartbeat_of_a_worker_that_is_there_is_refused(
    tale: Tale, server: int, at: float, answer: bool | None, wrong: bool
) -> None:
    tale.publish(10.0)
    tale.mark(at, server=server, answer=answer).holds(wrong, "unknown to")


@pytest.mark.parametrize(("server", "at", "wrong"), FOUND_LATER)
def test_a_heartbeat_of_a_worker_that_is_not_there_is_taken(tale: Tale, server: int, at: float, wrong: bool) -> None:
    tale.publish(9.0)
    tale.withdraw(10.0).mark(at, server=server).holds(wrong, "yet known to")


@pytest.mark.parametrize(("patience", "wrong"), [(1.0, False), (PATIENT, True)])
def test_a_list_without_an_answer_although_nothing_was_wrong(tale: Tale, patience: float, wrong: bool) -> None:
    tale.history.looks.append(Look(1, 20.0, 20.0 + patience, None, patience=patience))
    tale.holds(wrong, "nothing was wrong")


@pytest.mark.parametrize("what", ["writes", "rivals"])
def test_a_write_without_an_answer_although_nothing_was_wrong(tale: Tale, what: str) -> None:
    getattr(tale.history, what).append(Write("publish", "w", 1, 20.0, 28.0, None, 1, patience=PATIENT))
    tale.holds(True, "nothing was wrong")


@pytest.mark.parametrize(
    ("servers", "store", "begun", "ended", "wrong"),
    [
        ((1,), False, 16.0, 17.5, False),  # it went on less than 3 s before
        ((1,), False, 16.0, 16.9, True),
        ((0, 2), False, 20.0, 28.0, True),  # others are down
        ((), True, 14.0, 15.5, False),  # Redis was back less than 5 s before
        ((), True, 14.0, 14.9, True),
        ((1,), False, 27.9, 29.0, False),
    ],
)
def test_what_excuses_one_that_does_not_answer(
    tale: Tale, servers: tuple[int, ...], store: bool, begun: float, ended: float, wrong: bool
) -> None:
    tale.trouble(begun, ended, *servers, store=store)
    tale.history.looks.append(Look(1, 20.0, 28.0, None, patience=PATIENT))
    tale.holds(wrong, "nothing was wrong")


def test_nothing_can_be_said_after_a_write_that_may_yet_happen(tale: Tale) -> None:
    """The recording itself is wrong then: such a worker is left alone."""
    tale.publish(10.0, answer=None)
    tale.withdraw(11.0)
    with pytest.raises(ValueError, match="nothing can be said"):
        tale.holds(False)
