"""One command for many devices: a job, and the parts in which its targets are stored and processed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shared.domain.command import Terms

PART_SIZE = 1000
"""Targets of one part: a part is one document, and the most that is done again after a crash."""


class JobState(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RefusedTarget:
    """A target for which the command was not queued, and the reason."""

    target: str
    error: str


@dataclass(frozen=True, slots=True)
class WarningCount:
    """One warning: for how many targets, and the first few of them."""

    count: int
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """`already_queued`: an earlier request had queued the same command. `warnings`: counts by text."""

    queued: int = 0
    already_queued: int = 0
    refused: int = 0
    warnings: Mapping[str, WarningCount] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A command on its way to many devices.

    `terms` have no ttl: it was counted from `created_at`, which is kept to the millisecond. `owner` is the
    process that works on it; `heartbeats` counts up meanwhile. `progress` is as of the last heartbeat.
    `error` says why it failed; targets not known to be queued count as refused then."""

    id: str
    command_uuid: str
    command_hash: str
    request_type: str
    terms: Terms
    says_apple: bool
    caller: str
    total: int
    created_at: datetime
    state: JobState = JobState.RUNNING
    owner: str | None = None
    heartbeats: int = 0
    progress: Progress = Progress()
    finished_at: datetime | None = None
    error: str | None = None

    @property
    def parts(self) -> int:
        return -(-self.total // PART_SIZE)


@dataclass(frozen=True, slots=True)
class JobPart:
    """Some of a job's targets, and their results; `targets` and `refusals` may be left out of a read."""

    job: str
    number: int
    targets: tuple[str, ...] = ()
    is_done: bool = False
    progress: Progress = Progress()
    refusals: tuple[RefusedTarget, ...] = ()

    @property
    def id(self) -> str:
        return part_id(self.job, self.number)


def part_id(job: str, number: int) -> str:
    return f"{job}:{number:04}"
