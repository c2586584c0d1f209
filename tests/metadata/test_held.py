"""The records of one source are in order, however they come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peerload.metadata.directory.group import Group
from peerload.metadata.directory.held import Held, is_suspect, oldest
from peerload.metadata.publications.publication import Publication
from peerload.store.base import Beat
from tests.support.live import publication

KEYS = st.tuples(st.integers(0, 3), st.sampled_from("abcde"))


def held(rank: int, worker_id: str) -> Held:
    return Held(Publication.from_p2p(publication(worker_id=worker_id, rank=rank).SerializeToString()).record, 1)


@given(st.lists(KEYS), st.integers(0, 30))
def test_members_stay_in_order(changes: list[tuple[int, str]], asked_after: int) -> None:
    group, present = Group(), {}
    for number, key in enumerate(changes):
        if number == asked_after:
            group.ordered()
        if key in present:
            group.remove(present.pop(key))
        else:
            present[key] = held(*key)
            group.add(present[key])
    workers = {worker_id for _, worker_id in present}
    lowest = {name: min(rank for rank, worker_id in present if worker_id == name) for name in workers}
    order = [(ranks[0].record.key.worker_rank, ranks[0].record.key.worker_id) for ranks in group.ordered()]
    assert order == sorted((rank, worker_id) for worker_id, rank in lowest.items())
    assert group.several == sum(sum(worker_id == name for _, worker_id in present) > 1 for name in workers)
    for rank in range(4):
        assert group.of_rank(rank) == [ranks for ranks in group.ordered() if ranks[0].record.key.worker_rank == rank]
    for ranks in group.ordered():
        assert [each.record.key.worker_rank for each in ranks] == sorted(each.record.key.worker_rank for each in ranks)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("come or go"), KEYS, st.just(0)),
            st.tuples(st.just("beat"), KEYS, st.integers(1, 40)),
            st.tuples(st.just("suspect"), KEYS, st.integers(0, 1)),
            st.tuples(st.just("ask"), st.just((0, "a")), st.integers(1, 6)),
        ),
        max_size=200,
    )
)
def test_the_newest_are_those_heard_from_last(changes: list[tuple[str, tuple[int, str], int]]) -> None:
    def admit(ranks: tuple[Held, ...]) -> tuple[Held, ...] | None:
        return ranks if ranks[0].record.key.worker_id != "c" else None

    group = Group()
    present: dict[tuple[int, str], Held] = {}
    for what, key, number in changes:
        if what == "come or go":
            if key in present:
                group.remove(present.pop(key))
            else:
                present[key] = held(*key)
                group.add(present[key])
        elif what == "ask":
            newest = group.newest(number, admit)
            among = [ranks for ranks in group.members.values() if admit(ranks)]
            assert len(newest) == len(set(newest)) == min(number, len(among))
            assert set(newest) <= set(among)
            order = sorted(((not is_suspect(ranks), oldest(ranks)) for ranks in among), reverse=True)
            assert [(not is_suspect(ranks), oldest(ranks)) for ranks in newest] == order[:number]
        elif key in present and what == "beat":
            # Stamps of several servers do not come in their order.
            present[key].beat(Beat(number), 30)
            group.changed(present[key])
        elif key in present:
            present[key].suspect = bool(number)
