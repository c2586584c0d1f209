"""The checker of histories holds streams to one order, that of time and that of the store: made-up watches and lists."""

from __future__ import annotations

import pytest

from tests.support.histories.records import INITIALIZING, READY, STALE, State
from tests.support.histories.tale import Tale, first, then


@pytest.fixture
def tale() -> Tale:
    return Tale()


class TestWatches:
    """What streams show: as much as lists, and never backwards."""

    @pytest.mark.parametrize("server", [0, 1])
    @pytest.mark.parametrize(("until", "wrong"), [(12.0, False), (12.2, True)])
    def test_it_is_never_told(self, tale: Tale, server: int, until: float, wrong: bool) -> None:
        tale.publish(10.0)
        tale.watch([first(9.0, None)], ended=until, server=server).holds(wrong)

    @pytest.mark.parametrize(("until", "wrong"), [(12.0, False), (12.2, True)])
    def test_it_is_not_told_of_a_withdrawal(self, tale: Tale, until: float, wrong: bool) -> None:
        shown = tale.publish(9.0)
        tale.withdraw(10.0).watch([first(9.2, shown)], ended=until).holds(wrong)

    @pytest.mark.parametrize(("until", "wrong"), [(16.0, False), (16.2, True)])
    def test_it_is_not_ended_where_the_feed_is_lost(self, tale: Tale, until: float, wrong: bool) -> None:
        tale.trouble(10.2, 60.0, store=True)
        tale.publish(10.0)
        tale.watch([first(9.0, None)], ended=until).holds(wrong)

    def test_forward(self, tale: Tale) -> None:
        one, two, three = (tale.publish(at) for at in (10.0, 10.3, 10.6))
        tale.watch([first(9.0, None), then(10.2, one), then(11.0, two), then(11.2, three)], ended=14.0)
        tale.watch([first(9.0, None), then(11.2, three)], ended=14.0, server=2).holds(False)

    @pytest.mark.parametrize("answer", [True, None])
    def test_what_is_undone_at_once_is_left_out(self, tale: Tale, answer: bool | None) -> None:
        """Also by a withdrawal that happens without an answer."""
        tale.publish(10.0)
        tale.withdraw(10.2, answer=answer).watch([first(9.0, None)], ended=15.0).holds(False)

    @pytest.mark.parametrize(("until", "wrong"), [(12.2, False), (12.4, True)])
    def test_it_is_not_told_of_the_latest(self, tale: Tale, until: float, wrong: bool) -> None:
        one, _ = tale.publish(10.0), tale.publish(10.2)
        tale.watch([first(9.0, None), then(10.25, one)], ended=until).holds(wrong)

    @pytest.mark.parametrize(("at", "wrong"), [(12.0, False), (12.4, True)])
    def test_what_is_undone_later_is_shown(self, tale: Tale, at: float, wrong: bool) -> None:
        tale.publish(10.0)
        tale.withdraw(at).watch([first(9.0, None)], ended=20.0).holds(wrong)

    def test_backward(self, tale: Tale) -> None:
        one, two = tale.publish(10.0), tale.publish(10.3)
        tale.watch([first(9.0, None), then(10.6, two), then(11.0, one), then(11.2, two)], ended=14.0)
        tale.holds(True, "it went back")

    def test_backward_where_it_went_on(self, tale: Tale) -> None:
        one, two = tale.publish(10.0), tale.publish(10.3)
        pieces = [first(9.0, None), then(10.6, two)], [then(11.0, one), then(11.2, two)]
        tale.watch(*pieces, ended=14.0).holds(True, "it went back")

    def test_one_that_goes_on_catches_up(self, tale: Tale) -> None:
        one, two = tale.publish(10.0), tale.publish(10.8)
        tale.watch([first(9.0, None), then(10.6, one)], [then(14.0, two)], ended=14.2).holds(False)

    def test_a_watch_that_begins_anew_may_know_less(self, tale: Tale) -> None:
        one, two = tale.publish(10.0), tale.publish(10.3)
        tale.watch([first(9.0, None), then(10.6, two)], ended=10.8)
        tale.watch([first(11.0, one), then(11.2, two)], ended=14.0, server=2).holds(False)

    def test_lists_of_one_server_go_back(self, tale: Tale) -> None:
        one, two = tale.publish(10.0), tale.publish(10.3)
        tale.lists(10.6, two).lists(11.0, one).holds(True, "it went back")

    def test_lists_of_two_servers_need_not_agree_yet(self, tale: Tale) -> None:
        one, two = tale.publish(10.0), tale.publish(10.3)
        tale.lists(10.6, two).lists(11.0, one, server=2).holds(False)

    @pytest.mark.parametrize(
        "shown",
        [State(9, READY), State(1, INITIALIZING), State(1, STALE)],
        ids=["unpublished", "never so", "too early"],
    )
    def test_a_state_that_never_was(self, tale: Tale, shown: State) -> None:
        one = tale.publish(10.0)
        tale.watch([first(9.0, None), then(10.2, shown), then(10.4, one)], ended=11.0).holds(True)

    @pytest.mark.parametrize(
        ("at", "wrong"), [(13.0, True), (14.0, False), (17.0, False), (17.3, True)], ids=lambda value: str(value)
    )
    def test_it_is_told_of_one_that_ran_out_in_time(self, tale: Tale, at: float, wrong: bool) -> None:
        one = tale.publish(10.0)
        tale.watch([first(9.0, None), then(10.2, one), then(at, State(1, STALE))], ended=17.5).holds(wrong)

    @pytest.mark.parametrize(
        ("at", "wrong"), [(13.0, True), (14.0, False), (17.0, False), (17.3, True)], ids=lambda value: str(value)
    )
    def test_one_that_ran_out_leaves_those_that_are_ready(self, tale: Tale, at: float, wrong: bool) -> None:
        one = tale.publish(10.0)
        tale.watch([first(9.0, None), then(10.2, one), then(at, None)], ended=17.5, ready=True).holds(wrong)


class TestRivals:
    """One key, several publishers."""

    def test_watchers_of_two_servers_agree_on_the_order(self, tale: Tale) -> None:
        one, two = tale.rival(10.0, 10.5), tale.rival(10.1, 10.6)
        for server in (0, 1):
            tale.watch([first(10.2, one, "r"), then(10.7, two, "r")], ended=14.0, server=server)
        tale.watch([first(10.7, two, "r")], ended=14.0, server=2).holds(False)

    def test_watchers_of_two_servers_disagree_on_the_order(self, tale: Tale) -> None:
        one, two = tale.rival(10.0, 10.5), tale.rival(10.1, 10.6)
        tale.watch([first(10.2, one, "r"), then(10.7, two, "r")], ended=12.0, server=0)
        tale.watch([first(10.2, two, "r"), then(10.7, one, "r")], ended=12.0, server=1)
        tale.holds(True, "different orders")

    def test_lists_and_a_watch_disagree_on_the_order(self, tale: Tale) -> None:
        one, two = tale.rival(10.0, 10.5), tale.rival(10.1, 10.6)
        tale.watch([first(10.2, one, "r"), then(10.7, two, "r")], ended=12.0, server=0)
        tale.lists(10.7, two, worker="r").lists(11.0, one, worker="r").holds(True, "different orders")

    def test_three_watchers_disagree_in_a_circle(self, tale: Tale) -> None:
        states = [tale.rival(10.0, 10.5) for _ in range(3)]
        for server in range(3):
            one, two = states[server], states[(server + 1) % 3]
            tale.watch([first(10.2, one, "r"), then(10.7, two, "r")], ended=12.0, server=server)
        tale.holds(True, "different orders")

    def test_what_ended_before_is_shown_after(self, tale: Tale) -> None:
        one, two = tale.rival(10.0, 10.1), tale.rival(10.2, 10.3)
        tale.watch([first(10.4, two, "r"), then(10.7, one, "r")], ended=12.0).holds(True, "different orders")

    @pytest.mark.parametrize(("at", "wrong"), [(12.2, False), (12.4, True)])
    def test_the_earlier_one_stays(self, tale: Tale, at: float, wrong: bool) -> None:
        one, _ = tale.rival(10.0, 10.1), tale.rival(10.2, 10.3)
        tale.lists(at, one, worker="r").holds(wrong, "a later publication was known")

    @pytest.mark.parametrize(("at", "wrong"), [(12.0, False), (12.2, True)])
    def test_neither_is_there(self, tale: Tale, at: float, wrong: bool) -> None:
        tale.rival(10.0, 10.1)
        tale.lists(at, None, worker="r").holds(wrong, "it is not there")

    def test_one_that_was_not_published(self, tale: Tale) -> None:
        tale.lists(9.0, tale.rival(10.0, 10.1), worker="r").holds(True, "it was not published by then")

    def test_one_without_an_answer_may_come_whenever_it_likes(self, tale: Tale) -> None:
        one, two = tale.rival(10.0, 10.1, answer=None), tale.rival(10.2, 10.3)
        tale.watch([first(10.4, two, "r"), then(13.0, one, "r")], ended=14.0).holds(False)

    def test_one_that_was_asked_for_while_redis_was_lost_may_come_twice(self, tale: Tale) -> None:
        tale.trouble(10.05, 10.1, store=True)
        one, two = tale.rival(10.0, 10.15), tale.rival(10.2, 10.3)
        told = [first(10.12, one, "r"), then(10.4, two, "r"), then(10.5, one, "r"), then(10.6, two, "r")]
        tale.watch(told, ended=12.0).holds(False)
