"""The records of one source are in order, however they come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peerload.metadata.held import Group, Held
from peerload.metadata.publication import Publication
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
