"""Why no connection comes about: what gRPC does not say is found out by a handshake of our own."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from peerload.certificates import Validity, validity
from peerload.client.addresses import Place
from peerload.client.tls import Trust
from peerload.errors import MissingExtra

__all__ = ["Diagnosis", "diagnose"]

_SECONDS: Final = 3.0
"""For each step of a handshake: connecting, greeting, and waiting for a word."""
_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What a client of HTTP/2 begins with (RFC 9113, 3.4)."""
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_NAMES_OTHERS: Final = (62, 64)
_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21)
"""Results of OpenSSL's verification (X509_V_ERR_*)."""
_PLAINTEXT: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
_WANTS_ONE: Final = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
_REFUSES_IT: Final = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN", "DECRYPT_ERROR")
"""What alerts of the other side are called, in part."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong, and what to do about it; empty: nothing was found."""

    text: str = ""
    certain: bool = True
    """Whether it stays so until somebody changes something; else a server that is just going away may look the same."""

    def __bool__(self) -> bool:
        return bool(self.text)


_NOTHING: Final = Diagnosis()


def diagnose(place: Place, trust: Trust | None, now: int) -> Diagnosis:
    """What keeps a client with this trust (None: one that speaks plaintext) from a server, at `now` (milliseconds since
    1970). Blocks for a few seconds at most."""
    where = place.socket_address
    if where is None:
        return _NOTHING
    try:
        return _speaks_tls(where) if trust is None else _handshake(where, place.host, trust, now)
    except (OSError, ValueError):
        return _NOTHING  # Nobody is there, or what is there is too slow to tell.


def _speaks_tls(where: tuple[str, int]) -> Diagnosis:
    context = _trusting_anybody()
    try:
        with socket.create_connection(where, _SECONDS) as raw, context.wrap_socket(raw):
            pass
    except ssl.SSLError as error:
        if "_ALERT_" not in (error.reason or ""):
            return _NOTHING
    return Diagnosis("it speaks TLS, not plaintext: begin its address with https://, or set PEERLOAD_TLS=1")


def _handshake(where: tuple[str, int], host: str, trust: Trust, now: int) -> Diagnosis:
    name = trust.name or host
    context = trust.context()
    context.set_alpn_protocols(["h2"])
    finished = False
    try:
        with socket.create_connection(where, _SECONDS) as raw:
            with context.wrap_socket(raw, server_hostname=name) as secured:
                if secured.selected_alpn_protocol() != "h2":
                    return Diagnosis("it speaks TLS, but not HTTP/2: is it the port of a Peerload server?")
                finished = True
                # A certificate of ours is refused only after the handshake has ended for us (TLS 1.3).
                secured.sendall(_GREETING)
                return _NOTHING if secured.recv(1) else _client_certificate(trust, now)
    except ssl.SSLCertVerificationError as error:
        return _server_certificate(error, where, name, trust, now)
    except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError):
        if finished:
            return _client_certificate(trust, now)
        return Diagnosis("it ends the connection in the midst of the handshake: does it speak TLS?", certain=False)
    except ssl.SSLError as error:
        reason = error.reason or ""
        if reason in _PLAINTEXT:
            return Diagnosis(
                "it speaks plaintext, not TLS: leave out https:// and the settings of TLS, or give it some"
            )
        if "_ALERT_" in reason and any(sign in reason for sign in (*_WANTS_ONE, *_REFUSES_IT)):
            return _client_certificate(trust, now)
        return Diagnosis(f"TLS fails: {reason}", certain=False) if reason else _NOTHING


def _client_certificate(trust: Trust, now: int) -> Diagnosis:
    shown = trust.shown
    if shown is None:
        return Diagnosis(
            "it ends the connection after the handshake, as servers do that ask for a client certificate: name one by "
            "--tls-client-cert and --tls-client-key",
            certain=False,
        )
    fault = _fault(lambda: shown.validity, now)
    why = f", which {fault}" if fault else ": is it signed by one whom the server's --tls-client-ca has?"
    return Diagnosis(f"it refuses this client's certificate (--tls-client-cert){why}", certain=False)


def _server_certificate(
    error: ssl.SSLCertVerificationError, where: tuple[str, int], name: str, trust: Trust, now: int
) -> Diagnosis:
    code = error.verify_code
    if code in _NAMES_OTHERS:
        names = ", ".join(_names(where, trust)) or "no name at all"
        return Diagnosis(
            f"its certificate is for {names}, not for {name}: connect by such a name, or say by --tls-name which to expect"
        )
    if code in _UNKNOWN_ISSUER:
        return Diagnosis(
            f"its certificate is signed by nobody whom this client trusts ({error.verify_message}): name the file with its "
            "authority by --tls-ca or PEERLOAD_TLS_CA"
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        # By OpenSSL's clock; or it is one of those that lead to the root.
        fault = _shown_fault(where, now) or ("has expired" if code == _EXPIRED else "is not valid yet")
        return Diagnosis(f"its certificate {fault}: the server needs another, or a clock is wrong")
    return Diagnosis(f"its certificate is not accepted: {error.verify_message}")


def _names(where: tuple[str, int], trust: Trust) -> list[str]:
    """Whom the server's certificate is for, as far as it is otherwise good."""
    context = replace(trust, shown=None).context()
    context.check_hostname = False
    with contextlib.suppress(OSError), socket.create_connection(where, _SECONDS) as raw:
        with context.wrap_socket(raw) as secured:
            shown = cast(Sequence[tuple[str, str]], (secured.getpeercert() or {}).get("subjectAltName", ()))
            return [name for _, name in shown[:10]]
    return []


def _shown_fault(where: tuple[str, int], now: int) -> str:
    """Whether the time of the server's certificate is over, or has not begun."""
    with contextlib.suppress(OSError), socket.create_connection(where, _SECONDS) as raw:
        with _trusting_anybody().wrap_socket(raw) as secured:
            shown = secured.getpeercert(binary_form=True) or b""
        return _fault(lambda: validity(shown), now)
    return ""


def _fault(read: Callable[[], Validity], now: int) -> str:
    """What is wrong with a certificate's time; empty: nothing, or nothing is there to read it with."""
    try:
        return read().fault(now)
    except (ValueError, MissingExtra):
        return ""


def _trusting_anybody() -> ssl.SSLContext:
    """For looking at a server to which nothing is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
