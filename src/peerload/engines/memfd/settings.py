"""The settings of the memfd engine."""

from __future__ import annotations

from dataclasses import dataclass

from peerload.engines.tcp.settings import LineSettings
from peerload.errors import InvalidArgument

__all__ = ["MemfdSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemfdSettings(LineSettings):
    """Whom the memfd engine trusts, and how it talks; what is mapped is neither counted nor slowed down.

    Raises `InvalidArgument`.
    """

    allow_uids: tuple[int, ...] = ()
    """Users, beside this process's own, whose processes are given this source's memory, and whose memory is taken."""

    copy_limit: int = 16 * 1024 * 1024
    """Bytes in ordinary memory that are copied to where they can be shared, beside a publication that is shared as it is. Where there
    is more of it (than this, or than a sixteenth of the whole), the publication is left to other engines."""

    def __post_init__(self) -> None:
        LineSettings.__post_init__(self)
        if self.copy_limit < 0:
            raise InvalidArgument("copy_limit", "must be 0 bytes or more")
        uids: tuple[object, ...] = tuple(self.allow_uids)
        object.__setattr__(self, "allow_uids", uids)
        for uid in uids:
            if not isinstance(uid, int) or not 0 <= uid < 2**32 - 1:
                raise InvalidArgument("allow_uids", f"{uid!r} is not a user's number")
