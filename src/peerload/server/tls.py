"""TLS on the gRPC port: which files it is made of, what they hold, and how changes of them are followed.

Nothing here knows a gRPC library: every front takes a `TlsKeeper`, and asks it at each new connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from peerload.certificates import KeyPair, read_authorities, read_key_pair
from peerload.clock import Clock
from peerload.errors import InvalidArgument
from peerload.stamps import Stamps, stamps

__all__ = ["Tls", "TlsFiles", "TlsKeeper"]

_log = structlog.get_logger("peerload.server")

_DAY_MS: Final = 24 * 3600 * 1000
_SOON_MS: Final = 14 * _DAY_MS
"""How long before a certificate's end it is warned of, once a day."""
_LOOK_SECONDS: Final = 60.0
"""Time between two looks at the files, whether anybody connects or not."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a server's TLS, all PEM. They may change while it serves; connections made afterwards see that."""

    certificate: Path
    """The server's certificate, and after it those that lead from it towards the root."""
    key: Path
    client_ca: Path | None = None
    """Who signs clients' certificates; with it every client must show one. None: clients show none."""

    def __iter__(self) -> Iterator[Path]:
        yield from (self.certificate, self.key)
        if self.client_ca is not None:
            yield self.client_ca

    def read(self) -> Tls:
        """What they hold. Raises `InvalidArgument` naming the setting and the file, where that cannot be used."""
        pair = read_key_pair(self.certificate, self.key, ("tls_cert", "tls_key"))
        return Tls(pair, None if self.client_ca is None else read_authorities(self.client_ca, "tls_client_ca"))


@dataclass(frozen=True, slots=True)
class Tls:
    """What the files held: examined, and fit for each other."""

    pair: KeyPair
    client_ca: bytes | None
    """The authorities of clients' certificates, PEM; None: clients are not asked for one."""


class TlsKeeper:
    """Holds what the files held when they were last whole, and warns before it expires. Any thread may ask it.

    Raises what `TlsFiles.read` raises, and `InvalidArgument` for a certificate that is not valid now. Files that are bad
    later are complained of once, and what was held before stays.
    """

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        self.files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: Stamps = stamps(files)
        self._held = files.read()
        self._check(self._held)
        self._complaint = ""
        self._warned: int | None = None
        self._warn()

    @property
    def mutual(self) -> bool:
        """Whether clients must show a certificate."""
        return self.files.client_ca is not None

    @property
    def expires(self) -> int:
        """When the certificate that is held does, in milliseconds since 1970."""
        return self._held.pair.validity.ends

    def current(self) -> Tls:
        """What to meet a new connection with; the same object until the files have changed."""
        found = stamps(self.files)
        if found != self._seen:
            with self._lock:
                if found != self._seen:
                    self._read(found)
        return self._held

    async def follow(self) -> None:
        """Look at the files now and then, until cancelled."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Read the files whatever their stamps say, and warn if what is held expires soon."""
        with self._lock:
            self._read(stamps(self.files))
            self._warn()

    def _read(self, found: Stamps) -> None:
        # A file that changes while it is read has another stamp afterwards, and is read again by who comes next.
        self._seen = found
        try:
            read = self.files.read()
            if read != self._held:
                self._check(read)
        except InvalidArgument as error:
            # A pair is replaced file by file: for a moment its halves do not fit. What stays so is looked at again, too.
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("the TLS files cannot be used; going on with those before", reason=str(error))
            return
        self._complaint = ""
        if read != self._held:
            self._held = read
            self._warned = None
            _log.info("the TLS files were read again", expires=read.pair.validity.end)
            self._warn()

    def _check(self, read: Tls) -> None:
        if fault := read.pair.validity.fault(self._clock.wall_ms()):
            raise InvalidArgument("tls_cert", f"the certificate in {self.files.certificate} {fault}")

    def _warn(self) -> None:
        now, ends = self._clock.wall_ms(), self._held.pair.validity.ends
        if now < ends - _SOON_MS or (self._warned is not None and now < self._warned + _DAY_MS):
            return
        self._warned = now
        where, end = str(self.files.certificate), self._held.pair.validity.end
        if now < ends:
            _log.warning("the server's certificate expires soon", file=where, expires=end)
        else:
            _log.error("the server's certificate has expired: clients refuse it", file=where, expired=end)
