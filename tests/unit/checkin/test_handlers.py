from typing import get_args

from services.checkin.messages import HANDLERS
from shared.apple.messages.checkin import CheckinMessage
from shared.apple.messages.connect import Connect


def test_every_message_has_a_handler() -> None:
    assert HANDLERS.keys() == {*get_args(CheckinMessage), Connect}


def test_a_message_without_an_event_has_its_answer_at_once() -> None:
    """The batch looks for an answer at once where there is no event, and would send an empty 200
    otherwise."""
    silent = {message for message in HANDLERS if message.event is None}  # type: ignore[attr-defined]

    overridden = {
        message for message, handler in HANDLERS.items() if "at_once" in vars(type(handler))
    }
    assert silent == overridden
