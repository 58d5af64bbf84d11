"""Settings: what is written in the environment, and what is refused in one line."""

import base64
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from shared.domain.errors import Misconfigured
from shared.settings import (
    Address,
    AllSettings,
    CheckinSettings,
    CommandsSettings,
    PushSettings,
    WebhookSettings,
    load,
    warnings_about,
)
from shared.settings.__main__ import main as write_table
from shared.settings.__main__ import table
from shared.settings.load import SERVICES, name_in_use, variable
from shared.settings.values import Duration, format_duration
from shared.web.version import VERSION

SECRET_KEY = base64.b64encode(bytes(range(32))).decode()
SERVERS = {
    "MDM_MONGODB_URL": "mongodb://u:secret@db/x",
    "MDM_AMQP_URL": "amqp://u:secret@mq/",
    "MDM_SECRET_KEY": SECRET_KEY,
}
KEY = {"MDM_API_KEY": "a-key-that-is-long-enough"}


def refusal(cls: type[AllSettings | CheckinSettings], environ: dict[str, str]) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(cls, environ)
    return str(caught.value)


def test_all_needs_no_setting():
    settings = load(AllSettings, {})

    assert str(settings.http) == "127.0.0.1:8080"
    assert str(settings.ops_http) == "127.0.0.1:9080"
    assert settings.public_url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("cls", "port"),
    [(CheckinSettings, 1), (CommandsSettings, 2), (PushSettings, 3), (WebhookSettings, 4)],
)
def test_each_service_has_ports_of_its_own(cls, port):
    settings = load(cls, SERVERS | KEY)

    assert (settings.http.port, settings.ops_http.port) == (8080 + port, 9080 + port)


@pytest.mark.parametrize("missing", ["MDM_MONGODB_URL", "MDM_AMQP_URL", "MDM_API_KEY"])
@pytest.mark.parametrize("cls", [CommandsSettings, PushSettings, WebhookSettings])
def test_a_single_service_names_what_it_needs(cls, missing):
    given = {name: value for name, value in (SERVERS | KEY).items() if name != missing}

    assert refusal(cls, given) == f"{missing}: is not set, and `{cls.service}` needs it"


def test_checkin_needs_no_api_key():
    assert load(CheckinSettings, SERVERS).service == "checkin"


@pytest.mark.parametrize(
    ("written", "address"),
    [
        (":8080", Address("", 8080)),
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("[::1]:443", Address("::1", 443)),
        ("mdm.example.org:8443", Address("mdm.example.org", 8443)),
    ],
)
def test_an_address_is_read_as_it_is_written(written, address):
    assert load(AllSettings, {"MDM_HTTP": written}).http == address


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        ("30 s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("2 min", timedelta(minutes=2)),
        ("1h", timedelta(hours=1)),
        ("0.5 d", timedelta(hours=12)),
        ("90", timedelta(seconds=90)),
    ],
)
def test_a_duration_is_read_as_it_is_written(written, duration):
    assert load(AllSettings, {"MDM_RETRY_WINDOW": written}).retry_window == duration


@pytest.mark.parametrize("written", ["11534337", "15 MiB", "1 GiB"])
def test_a_message_larger_than_an_event_may_be_is_warned_of_and_counts_as_11_mib(written):
    environ = {"MDM_MAX_BODY": written, "MDM_SERVER_URL": "https://x"}
    settings = load(AllSettings, environ)

    [warning] = warnings_about(settings, environ)

    assert settings.max_body == 11 * 1024**2
    assert warning.startswith("MDM_MAX_BODY: is above 11 MiB and counts as 11 MiB")


def test_a_message_of_11_mib_may_be_taken_and_10_mib_are_usual():
    environ = {"MDM_MAX_BODY": "11 MiB", "MDM_SERVER_URL": "https://x"}

    assert load(AllSettings, environ).max_body == 11 * 1024**2
    assert warnings_about(load(AllSettings, environ), environ) == []
    assert load(AllSettings, {}).max_body == 10 * 1024**2


def test_the_budget_of_bodies_has_room_for_any_one_of_them():
    assert load(AllSettings, {}).body_budget == 128 * 1024**2
    assert load(AllSettings, {"MDM_BODY_BUDGET": "24 MiB"}).body_budget == 24 * 1024**2

    said = refusal(AllSettings, {"MDM_BODY_BUDGET": "23 MiB"})

    assert said == "MDM_BODY_BUDGET: must not be below 24 MiB: one request may have as many"


def test_messages_for_the_broker_are_bounded_below_what_rabbitmq_4_takes() -> None:
    assert load(AllSettings, {}).amqp_max_message == 15 * 1024**2
    assert load(AllSettings, {"MDM_AMQP_MAX_MESSAGE": "1 MiB"}).amqp_max_message == 1024**2


def test_the_budget_of_events_bodies_has_a_least_value():
    assert load(AllSettings, {}).webhook_body_budget == 128 * 1024**2

    said = refusal(AllSettings, {"MDM_WEBHOOK_BODY_BUDGET": "7 MiB"})

    assert said == (
        "MDM_WEBHOOK_BODY_BUDGET: must not be below 8 MiB: events would be delivered one by one"
    )


def test_lists_are_separated_by_commas():
    settings = load(
        AllSettings,
        {
            "MDM_WEBHOOK_RETRY_SCHEDULE": "1 s, 5s,2 min",
            "MDM_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        },
    )

    assert settings.webhook_retry_schedule == (
        timedelta(seconds=1),
        timedelta(seconds=5),
        timedelta(minutes=2),
    )
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))


def test_micromdms_names_serve_where_ours_are_not_set():
    older = {
        "MICROMDM_API_KEY": "an-older-key-that-is-long",
        "MICROMDM_SERVER_URL": "https://mdm.example.org/",
        "MICROMDM_WEBHOOK_URL": "https://hook.example.org/in",
        "MICROMDM_HTTP_ADDR": ":9999",
    }

    settings = load(AllSettings, older | {"MDM_HTTP": ":1234"})

    assert settings.public_url == "https://mdm.example.org"
    assert settings.api_keys[0].get_secret_value() == "an-older-key-that-is-long"
    assert name_in_use("api_key", AllSettings, older) == "MICROMDM_API_KEY"
    assert settings.webhook_url.get_secret_value() == "https://hook.example.org/in"
    assert settings.http.port == 1234


def test_a_secret_may_stand_in_a_mounted_file(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("a-key-from-a-mounted-file\n")

    environ = {"MDM_API_KEY_FILE": str(file)}

    settings = load(AllSettings, environ)

    assert settings.api_keys[0].get_secret_value() == "a-key-from-a-mounted-file"
    assert name_in_use("api_key", AllSettings, environ) == "MDM_API_KEY_FILE"


def test_several_keys_are_good_at_once():
    settings = load(AllSettings, {"MDM_API_KEY": "the-old-key-0123456789 the-new-key-0123456789"})

    assert [key.get_secret_value() for key in settings.api_keys] == [
        "the-old-key-0123456789",
        "the-new-key-0123456789",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MDM_HTTP", "8080"),
        ("MDM_HTTP", "host:port"),
        ("MDM_HTTP", ":70000"),
        ("MDM_OPS_HTTP", "x"),
        ("MDM_SERVER_URL", "mdm.example.org"),
        ("MDM_API_KEY", ""),
        ("MDM_API_KEY", "  "),
        ("MDM_API_KEY", "change-me"),
        ("MDM_API_KEY_FILE", "/there/is/no/such/file"),
        ("MDM_MONGODB_URL", "http://db"),
        ("MDM_AMQP_URL", "localhost"),
        ("MDM_WEBHOOK_URL", "ftp://x"),
        ("MDM_WEBHOOK_RETRY_SCHEDULE", ","),
        ("MDM_WEBHOOK_RETRY_SCHEDULE", "soon"),
        ("MDM_TRUSTED_PROXIES", "everybody"),
        ("MDM_TRUSTED_PROXIES", "localhost"),
        ("MDM_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("MDM_TRUSTED_PROXIES", "10.0.0.1;10.0.0.2"),
        ("MDM_MAX_BODY", "-1"),
        ("MDM_MAX_BODY", "0"),
        ("MDM_LOG_FORMAT", "xml"),
        ("MDM_MONGO_DRIVER", "other"),
        ("MDM_ACCEPT_UNKNOWN_DEVICES", "perhaps"),
        ("MDM_RETRY_WINDOW", "1 fortnight"),
        ("MDM_DEVICE_CA", "/there/is/no/such/file"),
        ("MDM_PUSH_KEY", "/there/is/no/such/file"),
        ("MDM_APNS_URL", "api.push.apple.com"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_variable(name, value):
    message = refusal(AllSettings, {name: value})

    assert message.startswith(f"{name}: ")
    assert "\n" not in message


def test_a_refused_secret_is_not_repeated():
    message = refusal(AllSettings, {"MDM_MONGODB_URL": "http://user:hunter2@db"})

    assert "hunter2" not in message


def test_secrets_are_not_shown():
    settings = load(AllSettings, SERVERS | {"MDM_API_KEY": "hunter2-hunter2-hunter2"})

    assert "hunter2" not in repr(settings)
    assert "secret@" not in repr(settings)


def test_a_secret_given_twice_is_refused(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("x")

    message = refusal(AllSettings, KEY | {"MDM_API_KEY_FILE": str(file)})

    assert message.startswith("MDM_API_KEY_FILE: ")


def test_tls_needs_certificate_and_key(tmp_path: Path):
    file = tmp_path / "cert.pem"
    file.write_text("x")

    assert refusal(AllSettings, {"MDM_TLS_CERT": str(file)}).startswith("MDM_TLS_KEY: ")


def test_a_client_certificate_header_needs_trusted_proxies():
    message = refusal(AllSettings, {"MDM_CLIENT_CERT_HEADER": "Client-Cert"})

    assert message.startswith("MDM_TRUSTED_PROXIES: ")


@pytest.mark.parametrize(
    ("network", "widest"),
    [("10.0.0.0/27", "/28"), ("0.0.0.0/0", "/28"), ("2001:db8::/123", "/124")],
)
def test_a_client_certificate_header_is_not_believed_from_a_wide_range(network, widest):
    environ = {"MDM_TRUSTED_PROXIES": f"10.9.9.9, {network}"}

    assert len(load(AllSettings, environ).trusted_proxies) == 2
    message = refusal(AllSettings, environ | {"MDM_CLIENT_CERT_HEADER": "Client-Cert"})

    assert message.startswith(f"MDM_TRUSTED_PROXIES: {network} is wider than {widest}, ")
    assert "MDM_CLIENT_CERT_HEADER" in message
    assert message.endswith("list the addresses of your proxies")


def test_a_client_certificate_header_is_believed_from_a_narrow_range():
    environ = {"MDM_TRUSTED_PROXIES": "10.0.0.16/28, 10.9.9.9, 2001:db8::/124, ::1"}

    settings = load(AllSettings, environ | {"MDM_CLIENT_CERT_HEADER": "Client-Cert"})

    assert len(settings.trusted_proxies) == 4


def test_topics_beyond_micromdms_are_asked_for_by_name():
    environ = SERVERS | KEY | {"MDM_WEBHOOK_EXTRA_TOPICS": " macromdm.CommandExpired, "}

    assert load(WebhookSettings, environ).webhook_extra_topics == ("macromdm.CommandExpired",)
    assert load(WebhookSettings, SERVERS | KEY).webhook_extra_topics == ()


@pytest.mark.parametrize("topics", ["mdm.Connect", "macromdm.CommandExpired,macromdm.Other"])
def test_a_topic_that_cannot_be_asked_for_is_refused(topics):
    message = refusal(AllSettings, {"MDM_WEBHOOK_EXTRA_TOPICS": topics})

    assert message.startswith("MDM_WEBHOOK_EXTRA_TOPICS: must be a list of macromdm.")
    assert "macromdm.CommandExpired" in message


def test_rule_14_retention_below_the_retry_schedule_is_refused():
    message = refusal(
        WebhookSettings,
        SERVERS | KEY | {"MDM_EVENT_RETENTION": "4 d", "MDM_COMMAND_RETENTION": "1 d"},
    )

    assert message.startswith("MDM_EVENT_RETENTION: ")


def test_rule_14_retention_of_the_retry_schedule_and_three_days_is_enough():
    given = {
        "MDM_EVENT_RETENTION": "5 d",
        "MDM_COMMAND_RETENTION": "1 d",
        "MDM_WEBHOOK_RETRY_SCHEDULE": "1 d, 1 d",
    }

    assert load(AllSettings, given).event_retention == timedelta(days=5)


def test_rule_14_retention_below_that_of_commands_is_refused():
    message = refusal(CheckinSettings, SERVERS | {"MDM_EVENT_RETENTION": "29 d"})

    assert message.startswith("MDM_EVENT_RETENTION: ")


def test_an_unknown_setting_is_warned_of_and_one_of_the_tests_is_not():
    environ = {"MDM_WEBHOK_URL": "x", "MDM_TEST_AMQP_URL": "x", "MDM_SERVER_URL": "https://x"}

    found = warnings_about(load(AllSettings, environ), environ)

    assert found == ["MDM_WEBHOK_URL: no service has this setting; did you mean MDM_WEBHOOK_URL?"]


def test_a_setting_of_another_service_is_no_unknown_one():
    environ = SERVERS | KEY | {"MDM_PUSH_CERT": "x", "MDM_SERVER_URL": "https://x"}

    assert warnings_about(load(CheckinSettings, environ), environ) == []


def test_a_short_key_and_plain_http_are_warned_of():
    environ = {"MDM_API_KEY": "short"}

    found = warnings_about(load(AllSettings, environ), environ)

    assert [warning.split(":")[0] for warning in found] == ["MDM_API_KEY", "MDM_SERVER_URL"]


def test_settings_are_frozen():
    settings = load(AllSettings, {})

    with pytest.raises(ValueError, match="frozen"):
        settings.max_body = 1


def test_the_table_of_settings_is_current():
    page = Path(__file__).parents[4] / "docs" / "settings.md"

    assert write_table(["--check", str(page)]) == 0


def test_a_table_that_is_not_current_is_found(tmp_path: Path):
    page = tmp_path / "settings.md"
    page.write_text(table().replace("MDM_HTTP", "MDM_HTTPS"))

    assert write_table(["--check", str(page)]) == 1


def test_the_version_is_that_of_the_distribution():
    project = (Path(__file__).parents[4] / "pyproject.toml").read_text()

    assert f'version = "{VERSION}"' in project


ANY = sorted({(cls, field) for cls in SERVICES for field in cls.model_fields}, key=str)


@pytest.mark.parametrize(("cls", "field"), ANY, ids=lambda value: getattr(value, "__name__", value))
def test_whatever_is_wrong_with_a_setting_is_said_in_our_own_words(cls, field):
    try:
        load(cls, SERVERS | KEY | {variable(field): "-7 no such thing \x00"})
    except Misconfigured as exc:
        said = str(exc)
        assert said.startswith("MDM_")
        assert not any(words in said for words in ("nput should", "another value", "Pydantic"))


def test_a_size_that_is_too_large_is_no_unknown_unit():
    assert "must not be above" in refusal(AllSettings, {"MDM_MAX_COMMAND_SIZE": "99GiB"})


def test_one_of_several_words_is_said_with_those_words():
    said = refusal(AllSettings, {"MDM_LOG_FORMAT": "yaml"})
    assert said == "MDM_LOG_FORMAT: expected one of 'auto', 'json' or 'console'"


def test_receivers_may_be_on_this_machine_only_beside_the_embedded_store():
    served = {"MDM_MONGODB_URL": "mongodb://db", "MDM_SECRET_KEY": SECRET_KEY}

    assert load(AllSettings, {}).address_guard.refusal("127.0.0.1") is None
    assert load(AllSettings, served).address_guard.refusal("127.0.0.1") == "is a loopback address"


def test_receivers_may_be_in_the_private_networks_that_are_listed():
    guard = load(AllSettings, {"MDM_WEBHOOK_ALLOWED_NETWORKS": "10.0.0.0/16"}).address_guard

    assert guard.refusal("10.0.1.1") is None
    assert guard.refusal("10.1.0.1")


@pytest.mark.parametrize(
    "text", ["0.00005 s", "86399.999 s", "29.99999 s", "0.1 s", "1 d", "90 s", "0 s"]
)
def test_a_duration_is_shown_as_it_is_read(text: str) -> None:
    assert format_duration(TypeAdapter(Duration).validate_python(text)) == text
