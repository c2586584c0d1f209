"""The Lua scripts: each a file beside this one, with `common.lua` before it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from peerload.errors import Unavailable
from peerload.store.redis.link import Command, Link, Replies, ReplyError
from peerload.store.redis.pool import checked
from peerload.store.redis.trouble import NoScript, refusal

__all__ = ["Script", "script"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name by which Redis's cache knows it."""

    source: bytes
    digest: str

    async def run(
        self, link: Link, keys: tuple[str | bytes, ...], *arguments: str | bytes | int, then: Command | None = None
    ) -> Replies:
        """Run it, and `then` a command after it in the same round trip; the replies of both.

        Raises what an error reply means; for one to `then` no more than `Unavailable`, since the script was run. Where the cache does
        not have it, it is sent as a whole (nothing was done).
        """
        rest = (len(keys), *keys, *arguments)
        if then is not None:
            # Whole at once: to learn that the cache does not have it, a WAIT behind it would have to be waited for.
            first, second = await link.ask(("EVAL", self.source, *rest), then)
            checked(link, [first])
            if isinstance(second, ReplyError):
                # The script was run, so this is none of the reasons for which it may be sent again.
                raise Unavailable(str(refusal(link.address, str(second))))
            return [first, second]
        try:
            return checked(link, await link.ask(("EVALSHA", self.digest, *rest)))
        except NoScript:
            return checked(link, await link.ask(("EVAL", self.source, *rest)))


@cache
def script(name: str) -> Script:
    """The script of that name."""
    folder = resources.files(__package__) / "lua"
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in ("common", name))
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())
