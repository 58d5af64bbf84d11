"""GET /push/{udid} and POST /v1/push/{udid}: push now, and say what APNs said.

Promises: MicroMDM's answer on success; else, in this order: 404 unknown, 409 not to be pushed (or an
ambiguous id), 503 no push certificate for its topic, 502 what APNs said.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Path, Query
from typing_extensions import TypedDict

from services.push.send.outcomes import Accepted, TopicRefused
from services.push.send.pusher import Pusher
from services.push.send.topics import NoCertificate
from shared.domain.access import Scope
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import BadRequest, Conflict, Fault, NotFound, Unavailable, UpstreamFailed
from shared.domain.names import ambiguity
from shared.ports.enrollments import Enrollments
from shared.web.answers import JsonAnswer
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import about, errors, like, ok

TAG = {"name": "push", "description": "Wake a device, so that it asks for its commands."}

LATEST = 253_402_300_799
"""The last second of the year 9999."""


class Pushed(TypedDict):
    """APNs took the push."""

    status: Annotated[Literal["success"], like("success")]
    push_notification_id: Annotated[
        str,
        about("The apns-id that APNs gave to the push.", "6F0D7C2E-6C0B-4D1B-9E1C-0C7F1B1D9A55"),
    ]


RESPONSES = ok(Pushed, "APNs took the push.") | errors(
    400,
    404,
    409,
    502,
    said={
        400: "expiration: expected seconds since 1970, or nothing",
        403: "this needs the scope push",
        404: "no device 9F0C1D6E is known",
        409: (
            "It cannot be pushed, or the id names several enrollments.",
            "the device is not enrolled",
        ),
        503: "no push certificate for topic com.apple.mgmt.External.a1b2c3",
    },
)


class PushRoutes:
    def __init__(self, enrollments: Enrollments, pusher: Pusher, auth: ApiAuth) -> None:
        self._enrollments = enrollments
        self._pusher = pusher
        self.router = auth.router(tags=["push"])
        for method, path in (("GET", "/push/{udid}"), ("POST", "/v1/push/{udid}")):
            self.router.add_api_route(
                path,
                self.push,
                methods=[method],
                dependencies=[auth.needs(Scope.PUSH, audit="device.push")],
                responses=RESPONSES,
                summary="Push a device now",
                operation_id=f"push_{method.lower()}",
            )

    async def push(
        self,
        udid: Annotated[
            str, Path(description="UDID, EnrollmentID, UserID, serial number or enrollment id.")
        ],
        expiration: Annotated[
            str | None,
            Query(
                description="Until when APNs keeps the push for a device that is off: seconds "
                "since 1970 (0: not at all). Default: 7 days from now.",
                examples=["1767225600"],
            ),
        ] = None,
    ) -> JsonAnswer:
        """Asks APNs to wake the device, whether or not a command waits for it."""
        expires_at = _expires_at(expiration)
        enrollment = await self._find(udid)
        if enrollment.status is not EnrollmentStatus.ENROLLED:
            raise Conflict("the device is not enrolled")
        if enrollment.push is None or not enrollment.push.token:
            raise Conflict("the device has not sent a push token yet")
        outcome = await self._pusher.push_now(enrollment, enrollment.push, expires_at)
        match outcome:
            case Accepted(apns_id):
                return JsonAnswer({"status": "success", "push_notification_id": apns_id})
            case NoCertificate(reason):
                raise Unavailable(reason)
            case TopicRefused(reason):
                raise UpstreamFailed(f"APNs refuses our certificate for this topic: {reason}")
            case _:
                raise UpstreamFailed(f"APNs did not take the push: {outcome.reason}")

    async def _find(self, name: str) -> Enrollment:
        matches = (await self._enrollments.find([name])).get(name, [])
        if len(matches) > 1:
            raise Conflict(ambiguity(name, matches))
        records = await self._enrollments.load([each.id for each in matches])
        if not records:
            raise NotFound(f"no device {name[:100]} is known")
        [found] = records.values()
        return found


def _expires_at(text: str | None) -> datetime | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > LATEST:
        expected = "expected seconds since 1970, or nothing"
        raise BadRequest(f"expiration: {expected}", [Fault("expiration", expected)])
    return datetime.fromtimestamp(int(text), UTC)
