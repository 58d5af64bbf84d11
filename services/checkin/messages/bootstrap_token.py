"""SetBootstrapToken and GetBootstrapToken: a Mac entrusts its token, and asks for it."""

from dataclasses import replace

from services.checkin.answers import Answer
from services.checkin.messages.handler import Handler
from shared.apple.messages.checkin import (
    GetBootstrapToken,
    SetBootstrapToken,
    bootstrap_token_answer,
)
from shared.domain.enrollment import Enrollment
from shared.domain.errors import CannotDecrypt, MdmError
from shared.ports.enrollments import Change


class SetBootstrapTokenHandler(Handler[SetBootstrapToken]):
    changes_enrollment = True

    def change(self, message: SetBootstrapToken, change: Change) -> Change:
        return replace(change, bootstrap_token=message.bootstrap_token)


class GetBootstrapTokenHandler(Handler[GetBootstrapToken]):
    has_answer = True

    def answer(self, message: GetBootstrapToken, device: Enrollment) -> Answer | MdmError:
        if device.unreadable is not None:  # an empty answer would mean that there is no token
            return CannotDecrypt(device.unreadable)
        return Answer(bootstrap_token_answer(device.bootstrap_token))
