"""The commands that Apple publishes: what API clients may send, checked, named and converted.

Compiled once from `catalogue.json`. A command that is prepared has exactly the keys that were given,
with Apple's names and types; a refusal names all that is wrong with a request at once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from shared.apple.catalogue.compiling import compile_command
from shared.apple.catalogue.schema import request_schema
from shared.apple.profiles.doubts import payload_doubt
from shared.apple.request.advice import Advice, Adviser, Recipient
from shared.apple.request.defaults import with_defaults
from shared.apple.request.plist import (
    PreparedCommand,
    encode_command,
    refuse_unreadable,
)
from shared.apple.request.read_json import read_request
from shared.apple.request.terms import NO_TERMS
from shared.apple.values.containers import Dictionary
from shared.domain.errors import key_path

CATALOGUE = Path(__file__).with_name("catalogue.json")
MOST_KINDS = 1000
"""Recipients that differ, for which one command's advice is kept."""


@dataclass(frozen=True, slots=True)
class CommandCatalogue:
    """All request types of one release of Apple's schema."""

    release: str
    forms: Mapping[str, Dictionary]

    @classmethod
    def load(cls) -> Self:
        """The catalogue that is part of this version."""
        return cls.of(json.loads(CATALOGUE.read_text(encoding="utf-8")))

    @classmethod
    def of(cls, facts: Mapping[str, object]) -> Self:
        commands = facts["commands"]
        if not isinstance(commands, dict):
            raise TypeError("a catalogue without commands")
        forms = {name: compile_command(name, commands[name]) for name in sorted(commands)}
        return cls(str(facts.get("release", "unnamed")), forms)

    def prepare(self, body: Mapping[str, object], new_uuid: Callable[[], str]) -> PreparedCommand:
        """The command that a request (from `parse_json`) asks for, or BadRequest with every fault."""
        request, reading = read_request(body)
        named, form = request.request_type, None
        if isinstance(named, str):
            form = self.forms.get(named)
        if form is None and isinstance(named, str) and named:
            expected = f"the name of one of Apple's {len(self.forms)} commands"
            reading.unknown(request.request_type_path, named, self.forms, expected)
        elif form is None:
            expected = "the name of a command, such as DeviceInformation"
            reading.fault(request.request_type_path, expected)
        for_plist: object = {}
        for_answer: object = {}
        terms = NO_TERMS
        if form is not None:
            for_plist, for_answer = form.convert(request.keys, request.path, reading)
            keys = for_plist if isinstance(for_plist, dict) else {}
            terms = with_defaults(request.terms, form.name, keys, reading)
        reading.raise_faults()
        if form is None or not isinstance(for_plist, dict) or not isinstance(for_answer, dict):
            raise AssertionError("a request without faults has a form and keys")
        command = encode_command(request.uuid or new_uuid(), form.name, for_plist)
        names = [key_path(request.path, name) for name in for_answer]
        refuse_unreadable(command, for_plist, names, reading)
        response: dict[str, object] = {
            "command_uuid": command.uuid,
            "command": {"request_type": form.name, **for_answer},
        }
        return PreparedCommand(
            targets=request.targets,
            command=command,
            response=response,
            is_bulk=request.is_bulk,
            terms=terms,
            keys=for_plist,
            says_apple=reading.exact,
        )

    def advise(self, prepared: PreparedCommand, recipient: Recipient) -> Advice:
        """What the client should know before this command goes there.

        Found out once for all recipients that are alike, so it may be asked for each of many."""
        advice = prepared.advice.get(recipient)
        if advice is None:
            advice = self._advice(prepared, recipient)
            if len(prepared.advice) < MOST_KINDS:
                prepared.advice[recipient] = advice
        return advice

    def _advice(self, prepared: PreparedCommand, recipient: Recipient) -> Advice:
        form = self.forms.get(prepared.command.request_type)
        if form is None:  # a raw command that Apple published later
            return Advice()
        adviser = Adviser(recipient, says_apple=prepared.says_apple)
        advice = adviser.advise(form, prepared.keys, is_raw=prepared.is_raw)
        payload = prepared.keys.get("Payload")
        if form.name == "InstallProfile" and isinstance(payload, bytes):
            doubt = payload_doubt(payload)
            if doubt is not None:
                return replace(advice, warnings=(f"payload: {doubt}", *advice.warnings))
        return advice

    def openapi_schema(self) -> dict[str, object]:
        """The body of POST /v1/commands; each command's schema, with an example, is in the
        `x-components` of it, which belong into the components of the document."""
        return request_schema(self.forms.values())
