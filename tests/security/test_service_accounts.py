"""Tokens of service accounts: what is remembered of reviews, for how long, and how many there are. The API server's own
answers are in `tests/security/test_kubernetes.py`."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from peerload.errors import NotAllowed, Unauthenticated, Unavailable
from peerload.metadata.principals import Principal, Role
from peerload.server.security.access import Access, Rule
from peerload.server.security.authenticator import Credentials
from peerload.server.security.jwt import claims_of
from peerload.server.security.reviews import Reviewed
from peerload.server.security.service_accounts import ServiceAccounts
from peerload.testing import ManualClock

USER = "system:serviceaccount:inference:worker"


def jwt(name: str = "a", **claims: Any) -> str:
    """What looks like a token; who made it, only a reviewer can say."""
    parts = ({"alg": "none"}, {"aud": ["peerload"], "jti": name, **claims})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


class Reviews:
    """A reviewer that knows what it is told, can be away, and can be slow."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.audiences: tuple[str, ...] = ("peerload",)
        self.asked: list[str] = []
        self.away = False
        self.at_once = self.most_at_once = 0
        self.answer = asyncio.Event()
        self.answer.set()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def review(self, token: str, audiences: tuple[str, ...]) -> Reviewed:
        self.asked.append(token)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.answer.wait()
        finally:
            self.at_once -= 1
        if self.away:
            raise Unavailable(f"no way to it for {token}")
        user = self.users.get(token, "")
        return Reviewed(user, self.audiences if user else ())


class House:
    def __init__(self, ttl: float = 60.0, access: Access | None = None) -> None:
        self.clock = ManualClock()
        self.reviews = Reviews()
        self.accounts = ServiceAccounts(
            self.reviews,
            self.clock,
            audiences=("peerload", "modelexpress"),
            allowed=frozenset({"inference/worker"}),
            ttl=ttl,
            access=lambda: access or Access(),
        )

    async def ask(self, token: str) -> Principal | None:
        return await self.accounts.recognise(Credentials(token=token))


@pytest.fixture
def house() -> House:
    return House()


async def test_a_good_token_is_believed_for_a_while(house: House) -> None:
    token = jwt()
    house.reviews.users[token] = USER
    for _ in range(3):
        assert await house.ask(token) == Principal(USER, Role.PUBLISH)
    await house.clock.advance(59)
    assert await house.ask(token)
    assert len(house.reviews.asked) == 1
    del house.reviews.users[token]
    await house.clock.advance(2)
    with pytest.raises(Unauthenticated):
        await house.ask(token)
    assert len(house.reviews.asked) == 2


async def test_never_for_longer_than_it_is_good(house: House) -> None:
    token = jwt(exp=house.clock.wall_ms() / 1000 + 10)
    house.reviews.users[token] = USER
    assert await house.ask(token)
    await house.clock.advance(9)
    assert await house.ask(token)
    await house.clock.advance(2)
    assert await house.ask(token), "whether it has expired, the reviewer says"
    assert len(house.reviews.asked) == 2
    assert await house.ask(token)
    assert len(house.reviews.asked) == 3, "and then it is asked each time"


async def test_a_bad_token_is_remembered_for_a_moment_only(house: House) -> None:
    token = jwt()
    for _ in range(3):
        with pytest.raises(Unauthenticated, match="not known to Kubernetes, or has expired"):
            await house.ask(token)
    assert len(house.reviews.asked) == 1
    house.reviews.users[token] = USER
    await house.clock.advance(5.1)
    assert await house.ask(token)


async def test_an_outage_is_no_answer_and_not_remembered(house: House) -> None:
    token, known = jwt(), jwt("known")
    house.reviews.users |= {token: USER, known: USER}
    assert await house.ask(known)
    house.reviews.away = True
    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(Unavailable, match="cannot be reviewed at the moment") as error:
                await house.ask(token)
            assert token not in str(error.value)
    assert len(lines) == 1, "a flood of calls is no flood of lines"
    assert await house.ask(known), "who was known goes on"
    house.reviews.away = False
    assert await house.ask(token)


async def test_without_a_memory_each_call_is_a_review() -> None:
    house = House(ttl=0)
    token = jwt()
    house.reviews.users[token] = USER
    for _ in range(3):
        assert await house.ask(token)
    assert len(house.reviews.asked) == 3


async def test_what_needs_no_review(house: House) -> None:
    for token in ("", "static", "a.b", "a.b.c", jwt() + ".d", "a." + "x" * 20_000 + ".c"):
        assert await house.ask(token) is None
    with pytest.raises(Unauthenticated, match=r"for another audience; a token of .* audience peerload or modelexpress"):
        await house.ask(jwt(aud=["https://kubernetes.default.svc"]))
    assert house.reviews.asked == []


async def test_a_reviewer_that_does_not_look_at_audiences_is_not_believed(house: House) -> None:
    token = jwt(aud=None)
    house.reviews.users[token] = USER
    for audiences in ((), ("other",)):
        house.reviews.audiences = audiences
        with pytest.raises(Unauthenticated):
            await house.ask(token)
        await house.clock.advance(6)


async def test_who_may_call() -> None:
    access = Access(
        service_accounts=(Rule("batch/*", Role.READ, ("org/*",)), Rule("inference/worker", Role.ADMIN, ("*",)))
    )
    house = House(access=access)
    for number, (user, found) in enumerate(
        {
            "system:serviceaccount:batch:anybody": Principal(
                "system:serviceaccount:batch:anybody", Role.READ, ("org/*",)
            ),
            USER: Principal(USER, Role.ADMIN),
            "system:serviceaccount:inference:other": None,
            "system:serviceaccount:batch": None,
            "admin": None,
            "batch/anybody": None,
        }.items()
    ):
        token = jwt(str(number))
        house.reviews.users[token] = user
        if found is None:
            with pytest.raises(NotAllowed) as refused:
                await house.ask(token)
            assert not isinstance(refused.value, Unauthenticated)
        else:
            assert await house.ask(token) == found


async def test_many_with_one_token_are_one_review(house: House) -> None:
    token = jwt()
    house.reviews.users[token] = USER
    house.reviews.answer.clear()
    asking = [asyncio.ensure_future(house.ask(token)) for _ in range(100)]
    await house.clock.settle()
    more = [asyncio.ensure_future(house.ask(token)) for _ in range(100)]
    await house.clock.settle()
    house.reviews.answer.set()
    assert len({principal.name for principal in await asyncio.gather(*asking, *more) if principal}) == 1
    assert len(house.reviews.asked) == 1


async def test_a_storm_of_made_up_tokens_is_no_storm_of_reviews(house: House) -> None:
    good = jwt("good")
    house.reviews.users[good] = USER
    assert await house.ask(good)
    storm = [asyncio.ensure_future(house.ask(jwt(f"made up {n}"))) for n in range(5_000)]
    await house.clock.advance(1)
    assert house.reviews.most_at_once <= 8
    assert len(house.reviews.asked) <= 1 + 200 + 100 + 8
    assert await house.ask(good), "who is known does not wait in the queue"
    await house.clock.advance(15)
    results = await asyncio.gather(*storm, return_exceptions=True)
    kinds = [type(result) for result in results]
    assert set(kinds) == {Unauthenticated, Unavailable}
    assert kinds.count(Unauthenticated) <= 1_300
    assert len(house.accounts._bad) <= 10_000


async def test_who_gives_up_leaves_no_question_behind(house: House) -> None:
    house.reviews.answer.clear()
    asking = [asyncio.ensure_future(house.ask(jwt(str(n)))) for n in range(50)]
    await house.clock.settle()
    for each in asking:
        each.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    house.reviews.answer.set()
    await house.clock.advance(1)
    assert len(house.reviews.asked) <= 8
    await house.accounts.close()


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: f"a.{base64.urlsafe_b64encode(data).decode()}.c"))
def test_any_text_is_either_a_token_or_none(text: str) -> None:
    claims = claims_of(text)
    assert claims is None or isinstance(claims.audiences, tuple)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )
)
def test_claims_of_any_form(value: Any) -> None:
    claims = claims_of(jwt(aud=value, exp=value))
    assert claims is not None
    assert all(isinstance(each, str) for each in claims.audiences)
    assert claims.expires is None or isinstance(claims.expires, float)
