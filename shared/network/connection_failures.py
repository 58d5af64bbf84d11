"""Reasons of failed connections that this server makes, in words for its operator.

Promises: a reason says what is wrong and what to do about it, whichever library raised it; no reason names a
class of Python, or holds credentials, or more of a foreign text than the names in a certificate.
"""

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

NO_ANSWER = "no answer in time"
CLOSED = "the connection was closed without an answer"

_TLS = re.compile(r"\[(?:SSL|X509)(?:: (\w+))?\][^:(]*(?:: (.*?)\.?)?\s*\(_ssl\.c")
"""Kind and details of a TLS failure: the text has them, also where the exception itself is gone."""
_ERRNO = re.compile(r"\[Errno (-?\d+)\]")
_OTHER_NAME = re.compile(r"ddress mismatch|ostname mismatch")
_NOT_TRUSTED = re.compile(r"self.signed|unable to (?:get|verify)")
_ASKED = re.compile(r"not valid for '(.*)'")

_NO_TLS = {
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "WRONG_VERSION_NUMBER",
}
_NO_VERSION = {"NO_PROTOCOLS_AVAILABLE", "TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"}
_HUNG_UP = "the connection was closed during the TLS handshake"

_OF_SYSTEM = {
    errno.ECONNREFUSED: "connection refused: nothing listens at this address and port",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "no route to the host's network",
    errno.ETIMEDOUT: NO_ANSWER,
    errno.ECONNRESET: CLOSED,
    errno.ECONNABORTED: CLOSED,
    errno.EPIPE: CLOSED,
}


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end, as an operator names it. `url`: the setting that says where it is; `trust`: where its CA
    is named, and `ca` by what; `tls`: how the URL asks for TLS, empty where it does."""

    url: str
    trust: str
    tls: str = ""
    ca: str = "the file of its CA"


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that a server shows. `issuer` is None where it is self-signed."""

    subject: str
    issuer: str | None
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    @property
    def origin(self) -> str:
        if self.issuer is None:
            return f"self-signed by {self.subject}"
        return f"of {self.subject}, issued by {self.issuer}"


def reason_of(error: BaseException, peer: Peer, shown: Shown | None = None) -> str | None:
    """The reason of a failure; None where it is none of the network. `shown`: what is known of the server's
    certificate, where the failure `is_about_certificate`."""
    for each in _chain(error):
        if tls := _TLS.search(str(each)):
            return _of_tls(tls[1] or "", tls[2] or "", peer, shown)
        if said := _of_network(each, peer):
            return said
    return None


def is_about_certificate(error: BaseException) -> bool:
    """True if the server's certificate was refused."""
    found = (_TLS.search(str(each)) for each in _chain(error))
    return any(each is not None and each[1] == "CERTIFICATE_VERIFY_FAILED" for each in found)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it comes from; the first of those that came together."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        together = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = together or error.__cause__ or error.__context__


def _of_network(error: BaseException, peer: Peer) -> str | None:
    if isinstance(error, TimeoutError):
        return NO_ANSWER
    if isinstance(error, ssl.SSLError):  # one without details; its number is none of the system's
        return _HUNG_UP
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _ERRNO.search(str(error))):
        number = int(found[1])
    if number is not None and (number < 0 or isinstance(error, socket.gaierror)):
        if number == socket.EAI_AGAIN:
            return f"the host of {peer.url} cannot be looked up now: no name server answers"
        return f"the host of {peer.url} is not found: no name server knows it"
    if number is not None:
        said = _OF_SYSTEM.get(number) or os.strerror(number)
    elif isinstance(error, ConnectionResetError | BrokenPipeError | EOFError):
        said = CLOSED
    else:
        return None
    return closed(peer) if said == CLOSED else said


def closed(peer: Peer) -> str:
    """The reason where the other end hangs up."""
    hint = f"; if it speaks TLS, {peer.url} must say {peer.tls}" if peer.tls else ""
    return CLOSED + hint


def _of_tls(kind: str, details: str, peer: Peer, shown: Shown | None) -> str:
    if kind == "CERTIFICATE_VERIFY_FAILED":
        return _of_certificate(details, peer, shown)
    if kind in _NO_TLS:
        return f"what answers there speaks no TLS: look at scheme and port of {peer.url}"
    if kind in _NO_VERSION:
        return "no common version of TLS: it must speak TLS 1.2 or newer"
    if kind == "UNEXPECTED_EOF_WHILE_READING":
        return _HUNG_UP
    words = kind.rpartition("ALERT_")[2].replace("_", " ").lower()
    if "ALERT" in kind and {"certificate", "ca"} & set(words.split()):
        return f"it refuses our client certificate ({words})"
    return f"the TLS handshake failed ({words or 'no details'})"


def _of_certificate(details: str, peer: Peer, shown: Shown | None) -> str:
    origin = shown.origin if shown else ""
    if _OTHER_NAME.search(details):
        return _of_other_name(details, peer, shown)
    if _NOT_TRUSTED.search(details):
        said = f"its certificate is not trusted ({origin or details})"
        return f"{said}: name {peer.ca} in {peer.trust}"
    if "expired" in details:
        said = "its certificate has expired: renew it, or its CA's, there"
        origin = f"valid until {shown.not_after:%Y-%m-%d}, {origin}" if shown else ""
    elif "not yet valid" in details:
        when = f" before {shown.not_before:%Y-%m-%d %H:%M} UTC" if shown else " yet"
        said = f"its certificate is not valid{when}: compare the clocks"
    else:
        said = f"its certificate is refused: {details}"
    return f"{said} ({origin})" if origin else said


def _of_other_name(details: str, peer: Peer, shown: Shown | None) -> str:
    asked = _ASKED.search(details)
    has = f"for {', '.join(shown.names) or 'no name'}, " if shown else ""
    said = f"its certificate is {has}not for {asked[1] if asked else 'this name'}"
    return f"{said}: change the host in {peer.url}, or that certificate"
