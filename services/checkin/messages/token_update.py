"""TokenUpdate: all that a push needs, and the token that clears a passcode."""

from dataclasses import replace

from services.checkin.messages.handler import Handler
from shared.apple.messages.checkin import TokenUpdate
from shared.domain.enrollment import PushTarget
from shared.ports.enrollments import Change


class TokenUpdateHandler(Handler[TokenUpdate]):
    changes_enrollment = True
    completes_enrollment = True

    def change(self, message: TokenUpdate, change: Change) -> Change:
        push = PushTarget(topic=message.topic, token=message.token, magic=message.push_magic)
        return replace(change, push=push, unlock_token=message.unlock_token)
