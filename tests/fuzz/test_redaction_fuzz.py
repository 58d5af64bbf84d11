"""No redacted body contains a secret, whatever the property list."""

import json
import plistlib
from base64 import b64encode
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.webhook.forms.form import shaped
from services.webhook.forms.redaction import known_keys
from shared.domain.subscription import BodyForm
from tests.fuzz.test_plist_fuzz import mutated

MARK = "s3cret-of-a-device"
TRACES = (MARK.encode(), b64encode(MARK.encode())[:-2])
NAMES = [
    *("UnlockToken", "BootstrapToken", "Token", "PushMagic", "PushToken", "SecurityToken"),
    *("EscrowKey", "RecoveryKey", "EncryptedNewRecoveryKey", "FDE_PersonalRecoveryKeyCMS"),
    *("Password", "NewPassword", "passwordHash", "Passcode", "PIN", "ActivationLockBypassCode"),
    *("Latitude", "DigestResponse", "Challenge", "Feedback", "Configuration"),
]


def all_names(known: Any) -> set[str]:
    if not isinstance(known, dict):
        return set()
    return set(known).union(*map(all_names, known.values()))


KNOWN = sorted(all_names(known_keys()))
secret = st.sampled_from([MARK, [MARK], {"Name": MARK}, {"Status": [MARK]}])
around = st.sampled_from(KNOWN) | st.text("abcXYZ.", min_size=1, max_size=5)
innocent = st.booleans() | st.integers(-9, 9) | st.sampled_from(["26.1", "Managed", ""])


def tree(below: st.SearchStrategy[Any], secret: st.SearchStrategy[Any] = secret) -> Any:
    hidden = st.dictionaries(st.sampled_from(NAMES), secret, max_size=2)
    open_ = st.dictionaries(around, below, max_size=4)
    return st.builds(lambda a, b: {**a, **b}, open_, hidden) | st.lists(below, max_size=3)


def with_data(below: st.SearchStrategy[Any]) -> Any:
    return tree(below, secret | st.just(MARK.encode()))


trees = st.recursive(innocent, with_data, max_leaves=8)


def event(raw: bytes, name: str) -> bytes:
    content = {"udid": "MAC", "url_params": {"k": MARK}, "raw_payload": b64encode(raw).decode()}
    return json.dumps({"topic": "mdm.Connect", "event_id": "e1", name: content}).encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    content=with_data(trees).filter(lambda each: isinstance(each, dict)),
    form=st.sampled_from(plistlib.PlistFormat),
    name=st.sampled_from(["checkin_event", "acknowledge_event"]),
)
def test_what_is_under_the_name_of_a_secret_is_nowhere_in_the_body(
    content: dict[str, Any], form: plistlib.PlistFormat, name: str
) -> None:
    body = shaped(BodyForm(is_redacted=True), [event(plistlib.dumps(content, fmt=form), name)])

    assert not [trace for trace in TRACES if trace in body]
    assert json.loads(body)[name]["redacted"] is True


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    content=st.dictionaries(around, st.recursive(innocent, tree, max_leaves=6), max_size=3),
    topic=st.sampled_from(["macromdm.CommandAcknowledged", "mdm.Connect", "future.Any"]),
)
def test_nor_in_an_event_of_ours(content: dict[str, Any], topic: str) -> None:
    hidden = {"answer": {name: MARK for name in NAMES} | content, "push_token": MARK}
    ours = {"topic": topic, "event_id": "e1", "command_event": hidden, "z": MARK}
    body = shaped(BodyForm(is_redacted=True), [json.dumps(ours).encode()])

    assert MARK.encode() not in body


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=mutated() | st.binary(max_size=200))
def test_of_a_broken_property_list_no_token_is_left_either(raw: bytes) -> None:
    body = shaped(BodyForm(is_redacted=True), [event(raw, "checkin_event")])

    assert b"728F8670" not in body
    assert b64encode(b"t" * 30) not in body
    assert json.loads(body)["checkin_event"]["raw_payload"] is None
