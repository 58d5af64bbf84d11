"""Devices by their proven certificates: from memory where a device spoke here lately, else from the store.

Promise: only a certificate that is bound to a device names it, not one that was replaced or only reserved.
A binding that another replica has replaced counts here until the device speaks here again.
"""

from collections.abc import Collection, Sequence

from services.checkin.exchange import DeviceExchange
from shared.concurrency.bounded_cache import BoundedCache
from shared.ports.enrollments import Enrollments

REMEMBERED = 16_384
"""Certificates; each costs about 200 bytes."""
NO_DEVICE = ""


class Senders:
    def __init__(self, enrollments: Enrollments) -> None:
        self._enrollments = enrollments
        self._devices: BoundedCache[str, str] = BoundedCache(REMEMBERED)

    def learn(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Remember what the records say that were read for these exchanges."""
        for exchange in exchanges:
            shown, device = exchange.certificate.fingerprint, exchange.device
            if device is None:
                continue
            name = device.key.id
            if device.certificate == shown:
                if self._devices.get(shown) != name:
                    self._forget(device.retired_certificates, name)
                self._devices.put(shown, name)
            else:
                self._forget([shown], name)

    def _forget(self, certificates: Collection[str], device: str) -> None:
        for each in certificates:
            if self._devices.get(each) == device:
                self._devices.put(each, NO_DEVICE)

    def device_of(self, certificate: str) -> str | None:
        """None if no device has it, or this process does not know it."""
        return self._devices.get(certificate) or None

    async def look_up(self, certificates: Collection[str]) -> None:
        """Learn whose these are. Raises Unavailable."""
        unknown = {each for each in certificates if self.device_of(each) is None}
        if not unknown:
            return
        holders = await self._enrollments.holders(unknown)
        records = await self._enrollments.load(set(holders.values()))
        for certificate, device in holders.items():
            if device in records and records[device].certificate == certificate:
                self._devices.put(certificate, device)
