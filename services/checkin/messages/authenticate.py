"""Authenticate: the device enrolls, or goes on with its enrollment."""

from dataclasses import replace

from services.checkin.messages.handler import Handler
from shared.apple.messages.checkin import Authenticate
from shared.ports.enrollments import Change


class AuthenticateHandler(Handler[Authenticate]):
    changes_enrollment = True
    begins_enrollment = True

    def serial_number(self, message: Authenticate) -> str | None:
        return message.inventory.serial_number

    def change(self, message: Authenticate, change: Change) -> Change:
        return replace(change, inventory=message.inventory)
