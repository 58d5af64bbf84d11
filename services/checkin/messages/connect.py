"""Connect: the device asks for a command, or answers one."""

from services.checkin.messages.handler import Handler
from shared.apple.messages.connect import Connect


class ConnectHandler(Handler[Connect]):
    asks_for_command = True

    def result(self, message: Connect) -> tuple[str | None, str | None]:
        return message.status.value, message.command_uuid
