"""What releases of Redis and Valkey answer, word for word, instead of doing what was asked."""

from __future__ import annotations

import pytest

from peerload.errors import Unavailable
from peerload.store.redis.place import Address
from peerload.store.redis.trouble import Passing, Refused, refusal

SHA = "caeeee01384f6b04384c56d69c27aa65287fb306"
IN_62 = f"ERR Error running script (call to f_{SHA}): @user_script:1: @user_script: 1:"
IN_70 = f"script: {SHA}, on @user_script:1."
IN_VALKEY = "script: on @user_script:1."

CANNOT = "The user executing the script can't run this command or subcommand"
FAILURE = "ACL failure in script: User default has no permissions to run the 'set' command"
OOM = "OOM command not allowed when used memory > 'maxmemory'."
REPLICA = "READONLY You can't write against a read only replica."

NOT_ALLOWED = "does not allow this user"
FULL = "is out of memory"
READ_ONLY = "is a read-only replica"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        pytest.param(f"{IN_62} {CANNOT}", Refused, NOT_ALLOWED, id="not allowed, 6.2"),
        pytest.param(f"ERR {CANNOT} {IN_70}", Refused, NOT_ALLOWED, id="not allowed, 7.0"),
        pytest.param(f"ERR {FAILURE} {IN_70}", Refused, NOT_ALLOWED, id="not allowed, 8.2"),
        pytest.param(f"ERR {FAILURE} {IN_VALKEY}", Refused, NOT_ALLOWED, id="not allowed, Valkey 9.1"),
        pytest.param(
            "NOPERM User default has no permissions to run the 'hset' command", Refused, NOT_ALLOWED, id="no script"
        ),
        pytest.param(f"{IN_62} -{OOM}", Refused, FULL, id="full, 6.2"),
        pytest.param(f"{OOM} {IN_70}", Refused, FULL, id="full, since 7.0"),
        pytest.param(f"{IN_62} -{REPLICA}", Passing, READ_ONLY, id="replica, 6.2"),
        pytest.param(f"{REPLICA} {IN_70}", Passing, READ_ONLY, id="replica, since 7.0"),
        pytest.param("NOAUTH Authentication required.", Refused, "wants a password", id="stranger"),
        pytest.param(
            "ERR Protocol error: unauthenticated bulk length", Refused, "wants a password", id="stranger, much said"
        ),
    ],
)
def test_a_refusal_says_what_it_means(text: str, kind: type[Unavailable], words: str) -> None:
    error = refusal(Address("127.0.0.1", 6379), text)
    assert type(error) is kind
    assert words in str(error)
