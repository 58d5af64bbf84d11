"""Counts what became of a job's targets.

Promise: what is kept stays small however many devices there are: of a warning its count and the first
few devices, and only the first warnings by their own text; of a refusal the beginning of a long reason.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from services.commands.queue.submission import Queued
from shared.domain.errors import MdmError
from shared.domain.job import JobPart, Progress, RefusedTarget, WarningCount

FIRST_FEW = 5
MOST_WARNINGS = 50
LONGEST_REASON = 500
"""Characters: a part's refusals are one document."""
MORE = "more warnings of other kinds"


class Tally:
    def __init__(self) -> None:
        self.queued = 0
        self.already_queued = 0
        self.refused = 0
        self.refusals: list[RefusedTarget] = []
        self._warnings: dict[str, WarningCount] = {}

    @property
    def progress(self) -> Progress:
        return Progress(self.queued, self.already_queued, self.refused, dict(self._warnings))

    def count(
        self, targets: Sequence[str], outcomes: Sequence[Queued | MdmError], since: datetime
    ) -> None:
        """Add the outcomes of these targets, in their order, in a job that began at `since`."""
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(outcome, MdmError):
                self.refused += 1
                self.refusals.append(RefusedTarget(target, short(str(outcome))))
                continue
            at = outcome.entry.accepted_at
            # Since then an earlier pass of this very job may have queued it.
            is_ours = outcome.is_new or (at is not None and at >= since)
            self.queued += is_ours
            self.already_queued += not is_ours
            for text in outcome.warnings:
                self._warn(text, WarningCount(1, (target,)))

    def add(self, progress: Progress) -> None:
        """Add counts from elsewhere; the refusals stay there."""
        self.queued += progress.queued
        self.already_queued += progress.already_queued
        self.refused += progress.refused
        for text, warned in progress.warnings.items():
            self._warn(text, warned)

    def result(self, part: JobPart) -> JobPart:
        """The part, with all its targets counted; refusals in the order of the targets."""
        order = {target: number for number, target in enumerate(part.targets)}
        refusals = sorted(self.refusals, key=lambda refusal: order[refusal.target])
        return replace(part, is_done=True, progress=self.progress, refusals=tuple(refusals))

    def _warn(self, text: str, more: WarningCount) -> None:
        if text not in self._warnings and len(self._warnings) >= MOST_WARNINGS:
            text = MORE
        known = self._warnings.get(text, WarningCount(0))
        self._warnings[text] = WarningCount(
            known.count + more.count, (known.targets + more.targets)[:FIRST_FEW]
        )


def short(reason: str) -> str:
    """A reason, fit to be kept thousands of times."""
    return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."
