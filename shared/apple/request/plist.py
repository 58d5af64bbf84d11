"""Commands as devices get them; and the raw ones that API clients send.

A raw property list is delivered byte for byte: it is read to learn its CommandUUID and RequestType,
never rewritten, and what Apple publishes tomorrow passes. A command made from JSON is written once,
and its hash names it from then on.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from shared.apple.plist.read import MOST_PIECES, parse, parse_stored, pieces
from shared.apple.plist.write import write
from shared.apple.request.advice import Advice, Recipient
from shared.apple.request.defaults import with_defaults
from shared.apple.request.terms import NO_TERMS, query_terms
from shared.apple.values.reading import Reading, read_id
from shared.domain.command import Command, Terms
from shared.domain.errors import BadRequest, key_path

NO_QUERY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PreparedCommand:
    """A command that may be queued.

    `targets` are those whom the client named, each once: UDIDs, EnrollmentIDs or UserIDs. `is_bulk`:
    in a list, however many. `response` is MicroMDM's `payload` object of the answer. `keys` are the
    command's in Apple's spelling, without RequestType; `is_raw`: they are not checked. `says_apple`:
    the client writes them in Apple's spelling too.
    """

    targets: tuple[str, ...]
    command: Command
    response: dict[str, object]
    is_bulk: bool = False
    terms: Terms = NO_TERMS
    keys: Mapping[str, object] = field(default_factory=dict, repr=False)
    is_raw: bool = False
    says_apple: bool = False
    is_by_key: bool = False
    """Its CommandUUID was made of the request's `Idempotency-Key`."""
    advice: dict[Recipient, Advice] = field(default_factory=dict, repr=False, compare=False)
    """Advice from an earlier look (`CommandCatalogue.advise`)."""

    @property
    def target(self) -> str:
        """The only target; raises ValueError when there are several."""
        [target] = self.targets
        return target


def encode_command(uuid: str, request_type: str, keys: Mapping[str, object]) -> Command:
    """The command of these keys as a property list."""
    plist = write({"Command": {"RequestType": request_type, **keys}, "CommandUUID": uuid})
    return _command(uuid, request_type, plist)


def stored_keys(command: Command) -> dict[str, object]:
    """The keys of a command that was accepted before. BadRequest where it is no command."""
    body = parse_stored(command.plist).get("Command")
    if not isinstance(body, dict):
        raise BadRequest("the stored command has no Command")
    return {name: value for name, value in body.items() if name != "RequestType"}


def refuse_unreadable(
    command: Command, keys: Mapping[str, object], names: Iterable[str], reading: Reading
) -> None:
    """Refuse text that no property list can bring back within its limits; `names` are those that the
    client used for the keys, in their order. Only a large command can have so much."""
    if len(command.plist) <= MOST_PIECES or pieces(command.plist) <= MOST_PIECES:
        return
    counted = {
        name: pieces(write({name: keys[key]})) for key, name in zip(keys, names, strict=True)
    }
    worst = max(counted, key=lambda name: counted[name])
    reading.fault(
        worst, f"no more than {MOST_PIECES} line ends and characters & < > in one command"
    )
    reading.raise_faults()


def prepare_raw(target: str, plist: bytes, query: Mapping[str, str] = NO_QUERY) -> PreparedCommand:
    """A command that a client made; BadRequest when it does not say which, or what it wants.

    `query` holds the command's terms, see `shared.apple.request.terms`."""
    document = parse(plist)
    reading = Reading()
    read_id(target, "udid", reading)
    uuid = read_id(document.get("CommandUUID"), "CommandUUID", reading)
    body = document.get("Command")
    request_type = ""
    if isinstance(body, dict):
        path = key_path("Command", "RequestType")
        request_type = read_id(body.get("RequestType"), path, reading)
    else:
        reading.fault("Command", "a dictionary with a RequestType")
        body = {}
    keys = {name: value for name, value in body.items() if name != "RequestType"}
    terms = with_defaults(query_terms(query, reading), request_type, keys, reading)
    reading.raise_faults()
    response: dict[str, object] = {
        "udid": target,
        "command_uuid": uuid,
        "command": {"request_type": request_type},
        "payload": base64.b64encode(plist).decode(),
    }
    return PreparedCommand(
        targets=(target,),
        command=_command(uuid, request_type, plist),
        response=response,
        terms=terms,
        keys=keys,
        is_raw=True,
        says_apple=True,
    )


def _command(uuid: str, request_type: str, plist: bytes) -> Command:
    return Command(hashlib.sha256(plist).hexdigest(), uuid, request_type, plist)
