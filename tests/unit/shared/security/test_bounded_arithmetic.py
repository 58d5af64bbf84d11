"""What a stranger's certificates may cost: keys that no device has are refused before any use."""

import base64
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.domain.errors import BadRequest
from shared.security.asn1 import der
from shared.security.certificates.lenient import LooseCertificate, load_certificate
from shared.security.identity import DeviceIdentities, WeakKeys
from shared.security.signature.signers import open_signed, signer_of
from shared.telemetry.metrics import Metrics
from tests.support.fakes.clock import START, FakeClock
from tests.support.harness.identities import AUTHORITY, DeviceIdentity, FleetAuthority, Profile
from tests.support.harness.odd_certificates import Odd, OddAuthority, long_form
from tests.support.harness.strangers import (
    IS_AUTHORITY,
    CurveKey,
    OddRsa,
    SigningKey,
    Stranger,
    certificate,
    chain_of,
    extension,
    name,
)
from tests.support.signatures import verify

OURS = FleetAuthority("Our CA")
BODY = b"x"
SECONDS = 0.1
"""CPU for one request; the attacks took 0.4 to 3 seconds each. A slow machine has room."""


@cache
def odd_key(bits: int, exponent_bits: int) -> OddRsa:
    return OddRsa.make(bits, exponent_bits)


def cost_of(attack: Callable[[], object]) -> tuple[float, str]:
    """CPU seconds of a request that is refused, and why it is."""
    began = time.process_time()
    with pytest.raises(BadRequest) as caught:
        attack()
    return time.process_time() - began, str(caught.value)


def judged(leaf: Stranger, others: list[bytes]) -> Callable[[], object]:
    """What a device's message goes through before its plist is read."""
    judge = DeviceIdentities([OURS.certificate], FakeClock())
    header = base64.b64encode(leaf.cms(BODY, *others))

    def attack() -> object:
        signer = signer_of(header, BODY)
        return judge.examine(signer.certificate, signer.others)

    return attack


@pytest.mark.parametrize(
    ("bits", "exponent_bits", "intermediates"), [(3072, 3060, 2), (16384, 64, 2), (16384, 64, 9)]
)
def test_intermediates_with_keys_that_nobody_has_cost_nothing(
    bits: int, exponent_bits: int, intermediates: int
) -> None:
    leaf, others = chain_of(odd_key(bits, exponent_bits), "N", intermediates)

    seconds, why = cost_of(judged(leaf, others))

    assert seconds < SECONDS
    assert "not one of a trusted CA" in why


def test_the_certificates_of_a_signed_profile_request_cost_nothing_either() -> None:
    leaf, others = chain_of(odd_key(3072, 3060), "N", 2)
    judge = DeviceIdentities([OURS.certificate], FakeClock())
    encoded = leaf.cms(BODY, *others, content=BODY)

    def attack() -> object:
        signer = open_signed(encoded).signer
        return judge.identify(signer.certificate, signer.others)

    seconds, _ = cost_of(attack)

    assert seconds < SECONDS


@pytest.mark.parametrize(
    ("bits", "exponent_bits", "why"),
    [
        (3072, 3060, "exponent is over 32 bits"),
        (4096, 33, "exponent is over 32 bits"),
        (16384, 17, "bits: expected 1024 to 8192"),
    ],
)
def test_a_signers_own_key_is_judged_before_its_signature(
    bits: int, exponent_bits: int, why: str
) -> None:
    key = odd_key(bits, exponent_bits)
    leaf = certificate(name("device"), name("N"), key, key)

    _, said = cost_of(lambda: verify(base64.b64encode(leaf.cms(BODY)), b"another body"))

    assert why in said


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP256K1(), ec.BrainpoolP512R1()])
def test_curves_that_no_device_uses_are_refused_by_name(curve: ec.EllipticCurve) -> None:
    device = OURS.certify(ec.generate_private_key(curve))

    with pytest.raises(BadRequest, match=f"a key on {curve.name}: expected P-256"):
        verify(device.sign(BODY), BODY)
    with pytest.raises(BadRequest, match=f"a key on {curve.name}: expected P-256"):
        DeviceIdentities([OURS.certificate], FakeClock()).examine(device.der)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_the_curves_of_devices_are_identities(curve: ec.EllipticCurve) -> None:
    device = OURS.certify(ec.generate_private_key(curve))

    assert verify(device.sign(BODY), BODY) == device.der
    assert DeviceIdentities([OURS.certificate], FakeClock()).identify(device.der)


@pytest.mark.parametrize("bits", [2048, 4096])
def test_rsa_keys_of_devices_are_identities(bits: int) -> None:
    device = OURS.certify(rsa.generate_private_key(public_exponent=65537, key_size=bits))

    assert verify(device.sign(BODY), BODY) == device.der
    assert DeviceIdentities([OURS.certificate], FakeClock()).identify(device.der)


def test_rsa_keys_of_devices_have_up_to_8192_bits_and_exponents_of_32() -> None:
    key = odd_key(8192, 32)
    device = certificate(name("device"), name("Our CA"), key, fleet_key(OURS))

    assert verify(base64.b64encode(device.cms(BODY)), BODY) == device.der
    assert DeviceIdentities([OURS.certificate], FakeClock()).identify(device.der)


def fleet_key(authority: FleetAuthority) -> CurveKey:
    key = authority.identity.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return CurveKey(key)


def weak_device(authority: FleetAuthority = OURS) -> DeviceIdentity:
    return authority.certify(rsa.generate_private_key(public_exponent=65537, key_size=1024))


def test_a_weak_key_counts_under_the_operators_ca_and_is_counted() -> None:
    metrics = Metrics()
    weak = WeakKeys([OURS.certificate], metrics)
    judge = DeviceIdentities([OURS.certificate], FakeClock(), weak)
    device = weak_device()

    assert judge.identify(verify(device.sign(BODY), BODY)) == device.fingerprint
    assert judge.identify(device.der) == device.fingerprint
    assert metrics.registry.get_sample_value("macromdm_weak_device_keys_total") == 1


def test_a_weak_key_under_our_own_ca_is_refused_with_the_true_reason() -> None:
    other = FleetAuthority("Operator's CA")
    weak = WeakKeys([other.certificate], Metrics())
    judge = DeviceIdentities([OURS.certificate, other.certificate], FakeClock(), weak)

    with pytest.raises(BadRequest, match="an RSA key of 1024 bits, and not from a CA of MDM_"):
        judge.examine(weak_device().der)
    assert judge.identify(weak_device(other).der)


def test_a_key_under_1024_bits_is_nobodys() -> None:
    key = OddRsa(odd_key(1024, 17).primes[:1], 65537)
    weak = WeakKeys([OURS.certificate], Metrics())
    judge = DeviceIdentities([OURS.certificate], FakeClock(), weak)
    device = certificate(name("device"), name("Our CA"), key, fleet_key(OURS))

    with pytest.raises(BadRequest, match="512 bits: expected 1024 to 8192"):
        judge.examine(device.der)


def below(count: int, *, key: Callable[[], SigningKey] = CurveKey) -> tuple[Stranger, list[bytes]]:
    """A device so many intermediates below our CA, and these, in an order that helps nobody."""
    above: tuple[bytes, SigningKey] = name("Our CA"), fleet_key(OURS)
    chain: list[bytes] = []
    for number in range(count):
        made = key()
        subject = name(f"Below {number}")
        chain.append(certificate(subject, above[0], made, above[1], IS_AUTHORITY).der)
        above = subject, made
    return certificate(name("device"), above[0], CurveKey(), above[1]), chain


@pytest.mark.parametrize("count", [1, 2, 3])
def test_up_to_three_intermediates_of_a_message_make_a_chain(count: int) -> None:
    device, chain = below(count)
    strangers = [FleetAuthority(f"Stranger {n}").identity.der for n in range(9 - count)]

    judge = DeviceIdentities([OURS.certificate], FakeClock())

    assert judge.identify(device.der, [*strangers, *chain])


def test_four_intermediates_of_a_message_make_none() -> None:
    device, chain = below(4)

    with pytest.raises(BadRequest, match="trusted CA"):
        DeviceIdentities([OURS.certificate], FakeClock()).examine(device.der, chain)


def test_an_intermediate_with_a_key_over_4096_bits_makes_no_chain_unless_it_is_the_operators() -> (
    None
):
    device, chain = below(1, key=lambda: odd_key(8192, 17))
    foreign = DeviceIdentities([OURS.certificate], FakeClock())

    with pytest.raises(BadRequest, match="trusted CA"):
        foreign.examine(device.der, chain)
    known = below(1, key=lambda: odd_key(4096, 17))
    assert foreign.identify(known[0].der, known[1])


def test_the_operators_own_intermediate_goes_before_the_one_that_a_message_brings() -> None:
    ours = FleetAuthority("Below", parent=OURS)
    device = ours.issue()
    impostors = [chain_of(CurveKey(), "Below", 1)[1][0] for _ in range(3)]

    judge = DeviceIdentities([ours.certificate], FakeClock())

    assert judge.identify(device.der, impostors) == device.fingerprint


def test_the_renewed_intermediate_of_one_name_is_found_beside_the_old_one() -> None:
    old, new = (FleetAuthority("Below", parent=OURS) for _ in range(2))
    judge = DeviceIdentities([OURS.certificate], FakeClock())

    for issuer in (old, new):
        device = issuer.issue()
        assert judge.identify(device.der, [old.identity.der, new.identity.der])


def dear_names(count: int, kind: bytes) -> bytes:
    return b"".join(der.element(0x82, b"a%d.%s" % (n, kind)) for n in range(count))


def test_names_are_never_compared_for_an_intermediate_that_nobody_vouched_for() -> None:
    """A thousand constraints over a thousand names are a million comparisons."""
    trees = b"".join(der.sequence(der.element(0x82, b"%d.b" % n)) for n in range(1000))
    constraints = extension("2.5.29.30", der.sequence(der.element(0xA0, trees)))
    names = extension("2.5.29.17", der.sequence(dear_names(1000, b"example")))
    key = CurveKey()
    above = certificate(name("N"), name("Our CA"), key, key, IS_AUTHORITY, constraints)
    leaf = certificate(name("device"), name("N"), CurveKey(), key, names)

    seconds, _ = cost_of(judged(leaf, [above.der]))

    assert seconds < SECONDS


def same_name(count: int) -> tuple[Stranger, list[bytes]]:
    """Intermediates of our CA's own name, each a possible way to any other."""
    key = CurveKey(ec.generate_private_key(ec.SECP521R1()))
    return chain_of(key, "Our CA", count)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_ways_between_certificates_of_one_name_are_bounded(count: int) -> None:
    leaf, others = same_name(count)

    seconds, _ = cost_of(judged(leaf, others))

    assert seconds < SECONDS


def test_a_good_certificate_that_came_alone_costs_one_check() -> None:
    device = OURS.issue().der

    def enroll() -> None:
        DeviceIdentities([OURS.certificate], FakeClock()).identify(device)
        raise BadRequest("done")

    assert checks_of(enroll) == 1


def checks_of(attack: Callable[[], object]) -> int:
    """Signature checks that a refused request makes in our own code."""
    counted = 0

    def count(_frame: object, event: str, called: Any) -> None:
        nonlocal counted
        if event == "c_call" and called.__name__ in {"verify", "verify_directly_issued_by"}:
            counted += 1

    sys.setprofile(count)
    try:
        attack()
    except BadRequest:
        return counted
    finally:
        sys.setprofile(None)
    raise AssertionError("not refused")


def test_a_refusal_of_arithmetic_is_remembered_with_all_certificates_that_came_together() -> None:
    device, chain = below(1)
    forged = chain_of(CurveKey(), "Below 0", 1)[0]
    judge = DeviceIdentities([OURS.certificate], FakeClock())

    assert checks_of(lambda: judge.examine(forged.der, chain)) == 2
    assert checks_of(lambda: judge.examine(forged.der, chain)) == 0
    assert checks_of(lambda: judge.examine(device.der, [])) == 0
    assert judge.identify(device.der, chain)  # with its intermediate it is another request


@pytest.mark.parametrize(("of_our_name", "checks"), [(1, 2), (3, 6), (4, 4)])
def test_a_forged_certificate_that_came_alone_costs_two_checks_for_each_of_three_cas(
    of_our_name: int, checks: int
) -> None:
    """Below more CAs of its issuer's name, one check each."""
    trust = [FleetAuthority("Our CA").certificate for _ in range(of_our_name)]
    forged = chain_of(CurveKey(), "Our CA", 0)[0]

    assert checks_of(lambda: DeviceIdentities(trust, FakeClock()).examine(forged.der)) == checks


def test_a_refusal_for_its_time_is_not_remembered() -> None:
    clock = FakeClock()
    judge = DeviceIdentities([OURS.certificate], clock)
    later = Profile(not_before=START + timedelta(hours=1))
    device = OURS.issue(profile=later)
    above = FleetAuthority("Below", parent=OURS, profile=authority_from(START + timedelta(hours=1)))
    under = above.issue()

    assert checks_of(lambda: judge.examine(device.der)) == 0
    assert checks_of(lambda: judge.examine(under.der, [above.identity.der])) == 0
    clock.advance(timedelta(hours=2))
    assert judge.identify(device.der)
    assert judge.identify(under.der, [above.identity.der])


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_request_has_sixteen_signature_checks_at_most(count: int) -> None:
    """By any way through certificates that all seem to be issued by our CA and by each other."""
    issuers = [CurveKey() for _ in range(count)]
    names = name("Our CA")
    others = [certificate(names, names, key, CurveKey(), IS_AUTHORITY).der for key in issuers]
    leaf = certificate(name("device"), names, CurveKey(), issuers[-1])

    assert 1 <= checks_of(judged(leaf, others)) <= 16


@pytest.mark.parametrize("count", [1, 3, 9])
def test_so_has_one_with_certificates_that_are_not_strict(count: int) -> None:
    keys, names = [CurveKey() for _ in range(count)], name("Our CA")
    forged = OddAuthority(CurveKey(), "Our CA")
    odds = [
        Odd(serial=der.integer(100 + n), subject=names, key=key, extensions=[IS_AUTHORITY])
        for n, key in enumerate(keys)
    ]
    others = [forged.issue(replace(odd, in_sequence=long_form)) for odd in odds]
    leaf = OddAuthority(keys[-1], "Our CA").issue(Odd(in_sequence=long_form))
    encoded = [other.der for other in others]

    assert all(
        isinstance(load_certificate(each), LooseCertificate) for each in (leaf.der, *encoded)
    )
    assert 1 <= checks_of(judged(leaf, encoded)) <= 16
    assert cost_of(judged(leaf, encoded))[0] < SECONDS


def long_name(size: int) -> bytes:
    """Parts of as many attributes as are read, of one byte each, in an order that DER forbids."""
    one = der.sequence(der.oid("2.5.4.3"), der.element(0x0C, b"z"))
    part = der.element(
        der.SET, der.sequence(der.oid("2.5.4.11"), b"\x0c\0"), one * 60, one[:-1] + b"a"
    )
    return der.sequence(part * (size // len(part)))


def test_long_names_of_certificates_that_are_not_strict_cost_little() -> None:
    names = long_name(3600)
    others = [certificate(names, names, CurveKey(), CurveKey(), IS_AUTHORITY).der for _ in range(5)]
    leaf = certificate(names, names, CurveKey(), CurveKey())

    seconds, why = cost_of(judged(leaf, others))

    assert seconds < SECONDS
    assert "not one of a trusted CA" in why


def authority_from(begin: Any) -> Profile:
    return Profile(not_before=begin, usage=AUTHORITY.usage, is_authority=True)


def dear_extension(size: int) -> bytes:
    """Networks, each of which the library makes an object of."""
    tree = der.sequence(der.element(0x87, bytes(8)))
    return extension("2.5.29.30", der.sequence(der.element(0xA0, tree * (size // len(tree)))))


@pytest.mark.parametrize("is_named_by_key", [False, True])
def test_a_certificate_of_a_size_that_nobody_has_is_refused_unread(is_named_by_key: bool) -> None:
    key = CurveKey()
    leaf = certificate(name("d"), name("N"), key, key, dear_extension(40_000))
    signature = leaf.cms(BODY, by_key=b"key" if is_named_by_key else None)

    _, why = cost_of(lambda: verify(base64.b64encode(signature), BODY))
    _, judged_why = cost_of(lambda: DeviceIdentities([], FakeClock()).examine(leaf.der))

    assert "the signer's certificate is not inside" in why
    assert "over 8192 bytes" in judged_why


def test_where_two_certificates_may_have_the_key_identifier_neither_is_read() -> None:
    """Six of them, with 7 KB of networks each, cost 15 ms; the second only looks as if it had it."""
    mark = extension("2.5.29.14", der.octet_string(b"key"))
    keys = [CurveKey(), CurveKey()]
    signer = certificate(name("d"), name("N"), keys[0], keys[0], mark, dear_extension(7_000))
    hidden = certificate(name("d"), name("N"), keys[1], keys[1], extension("1.2.3.4", mark))
    alone = signer.cms(BODY, by_key=b"key")
    together = signer.cms(BODY, hidden.der, by_key=b"key")

    assert verify(base64.b64encode(alone), BODY) == signer.der
    with pytest.raises(BadRequest, match="the signer's certificate is not inside"):
        verify(base64.b64encode(together), BODY)
