"""What a log line shows of an exception."""

import logging
import secrets

import pytest
import structlog

from shared.telemetry.logs import LogFormat, configure


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_local_variable(
    form: LogFormat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(authorization: str) -> None:
        raise RuntimeError("a bug")

    secret = secrets.token_hex(8)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    former = structlog.get_config()
    configure(form)
    try:
        fails(secret)
    except RuntimeError:
        structlog.get_logger().exception("event_not_handled")
    finally:
        structlog.configure(**former)  # the same lists: loggers that were used before keep to them

    said = capsys.readouterr().err
    assert "a bug" in said
    assert secret not in said
