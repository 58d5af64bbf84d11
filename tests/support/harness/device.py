"""A simulated device: the messages that it sends, signed with its identity, and what it was given."""

import base64
import plistlib
import re
import uuid
from dataclasses import dataclass, field

from tests.support.harness.http1 import Answer, Connection, request_bytes
from tests.support.harness.identities import DeviceIdentity

TOPIC = "com.apple.mgmt.External.simulated"


_COMMAND_UUID = re.compile(rb"<key>CommandUUID</key>\s*<string>([^<&]*)</string>")


def command_uuid_of(plist: bytes) -> str | None:
    """The CommandUUID of an answer to connect, None if it is empty."""
    if not plist:
        return None
    # A load reads thousands a second; a whole parser costs as much as the rest of its client.
    found = _COMMAND_UUID.findall(plist)
    return found[0].decode() if len(found) == 1 else str(plistlib.loads(plist)["CommandUUID"])


@dataclass
class SimulatedDevice:
    """Builds complete signed requests, so that a load can be signed before its clock starts."""

    identity: DeviceIdentity
    udid: str = field(default_factory=lambda: str(uuid.uuid4()).upper())
    topic: str = TOPIC
    push_token: bytes = field(default_factory=lambda: uuid.uuid4().bytes * 2)
    user: str | None = None
    host: str = "mdm"
    counts: bool = False
    """Write a number into each message, as a key that Apple does not know."""
    sequence: int = 0

    def authenticate(self) -> bytes:
        return self._checkin(
            {
                "MessageType": "Authenticate",
                "Topic": self.topic,
                "SerialNumber": f"S{self.udid[:11]}",
                "Model": "MacBookPro14,3",
                "ModelName": "MacBook Pro",
                "ProductName": "MacBookPro14,3",
                "DeviceName": "simulated",
                "OSVersion": "15.1",
                "BuildVersion": "24B83",
            }
        )

    def token_update(self) -> bytes:
        return self._checkin(
            {
                "MessageType": "TokenUpdate",
                "Topic": self.topic,
                "Token": self.push_token,
                "PushMagic": "magic-" + self.udid,
                "AwaitingConfiguration": False,
            }
        )

    def check_out(self) -> bytes:
        return self._checkin({"MessageType": "CheckOut", "Topic": self.topic})

    def idle(self) -> bytes:
        return self._connect({"Status": "Idle"})

    def report(self, command_uuid: str, status: str = "Acknowledged") -> bytes:
        return self._connect({"Status": status, "CommandUUID": command_uuid})

    def _checkin(self, message: dict[str, object]) -> bytes:
        return self._request("/mdm/checkin", message)

    def _connect(self, message: dict[str, object]) -> bytes:
        return self._request("/mdm/connect", message)

    def _request(self, path: str, message: dict[str, object]) -> bytes:
        message["UDID"] = self.udid
        if self.user is not None:
            message["UserID"] = self.user
        if self.counts:
            self.sequence += 1
            message["Sequence"] = self.sequence
        body = plistlib.dumps(message)
        header = f"mdm-signature: {self.identity.sign(body)}\r\n"
        return request_bytes("PUT", path, header, body, host=self.host)

    async def enroll(self, connection: Connection) -> None:
        """Authenticate and TokenUpdate, which must be accepted."""
        for request in (self.authenticate(), self.token_update()):
            answer = await connection.send(request)
            if answer.status != 200:
                raise AssertionError(f"enrolling {self.udid}: {answer.status}")

    async def work(self, connection: Connection) -> list[str]:
        """Connect, and answer commands until there are none; their uuids in the order given."""
        done: list[str] = []
        answer = await connection.send(self.idle())
        while answer.status == 200 and (command_uuid := command_uuid_of(answer.body)) is not None:
            done.append(command_uuid)
            answer = await connection.send(self.report(command_uuid))
        return done


@dataclass(frozen=True)
class ApiClient:
    """Requests of the command API."""

    api_key: str = field(repr=False)
    host: str = "mdm"

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        token = base64.b64encode(f"micromdm:{self.api_key}".encode()).decode()
        header = f"authorization: Basic {token}\r\n"
        return request_bytes(method, path, header, body, host=self.host)

    def enqueue(self, udid: str, command_uuid: str) -> bytes:
        """A query that no other one replaces, although it asks the same: each is to be delivered."""
        return self.request(
            "POST",
            "/v1/commands",
            (
                f'{{"udid": "{udid}", "request_type": "DeviceInformation", '
                f'"command_uuid": "{command_uuid}", "collapse_key": "{command_uuid}", '
                '"queries": ["DeviceName", "OSVersion"]}'
            ).encode(),
        )

    async def call(
        self, connection: Connection, method: str, path: str, body: bytes = b""
    ) -> Answer:
        return await connection.send(self.request(method, path, body))
