"""The commands that renew certificates: InstallProfile with the enrollment profile.

The profile has the identifier of the one that enrolled the device, which it replaces, and a challenge for the
one certificate that may follow the present one (`services.checkin.authorization.certificate_policy`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from services.checkin.enrollment.profiles import EnrollmentProfiles
from shared.apple.request.plist import encode_command
from shared.domain.command import RENEWAL_KEY, Command, QueueEntry, entry_id
from shared.domain.enrollment import Enrollment
from shared.ports.clock import Ids
from shared.ports.enrollments import Enrollments
from shared.ports.pushes import PushRequests
from shared.ports.queue import CommandQueue
from shared.security.challenges import ScepChallenges

COMMAND_LIVES = timedelta(days=7)
CHALLENGE_LIVES = COMMAND_LIVES + timedelta(days=1)
REQUEST_TYPE = "InstallProfile"


class RenewalCommands:
    def __init__(
        self,
        queue: CommandQueue,
        enrollments: Enrollments,
        push_requests: PushRequests,
        profiles: EnrollmentProfiles,
        challenges: ScepChallenges,
        ids: Ids,
    ) -> None:
        self._queue = queue
        self._enrollments = enrollments
        self._push_requests = push_requests
        self._profiles = profiles
        self._challenges = challenges
        self._ids = ids

    async def can_renew(self) -> bool:
        return await self._profiles.can_renew()

    async def entries(self, devices: Sequence[Enrollment]) -> Mapping[str, QueueEntry]:
        """Device -> the entry of its last attempt."""
        ids = {
            device.id: entry_id(device.id, device.renewal.command_uuid)
            for device in devices
            if device.renewal is not None
        }
        found = await self._queue.entries_of(set(ids.values())) if ids else {}
        return {device: found[id_] for device, id_ in ids.items() if id_ in found}

    async def queue(self, device: Enrollment, certificate: str, uuid: str, now: datetime) -> None:
        challenge = await self._challenges.issue_renewal(
            device.device, certificate, CHALLENGE_LIVES
        )
        parameters = device.identity.parameters if device.identity is not None else None
        profile = await self._profiles.renewal(parameters or {}, challenge)
        if profile is None:  # the operator's own profile changed just now: found at the next look
            return
        await self._enqueue(device, encode_command(uuid, REQUEST_TYPE, {"Payload": profile}), now)

    async def _enqueue(self, device: Enrollment, command: Command, now: datetime) -> None:
        """As the command API does it (docs/rules.md, rule 4)."""
        entry = QueueEntry(
            enrollment=device.id,
            device=device.device,
            command_uuid=command.uuid,
            command_hash=command.hash,
            request_type=command.request_type,
            generation=device.generation,
            order=self._ids.new(),
            expires_at=now + COMMAND_LIVES,
            collapse_key=RENEWAL_KEY,
            accepted_at=now,
        )
        [there], _ = await self._queue.put([command], [entry], [], now)
        if there is None:
            known = (await self._enrollments.load({device.id})).get(device.id)
            if known is not None and known.generation != entry.generation:
                await self._queue.stamp(entry, known.generation)
            await self._queue.supersede([entry])
        self._push_requests.add([device.id])
