"""False wall clocks for single processes, by Debian's libfaketime: no code of ours knows of it.

The monotonic clock stays true, as it does where an operator sets the wall clock.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class FalseClock:
    """The wall clock of one process. It may be moved while the process runs."""

    def __init__(self, file: Path, ahead: timedelta) -> None:
        self._file = file
        self.ahead = ahead
        self.move(ahead)

    def move(self, ahead: timedelta) -> None:
        """Set it to the true time plus `ahead`; the process reads it within a second."""
        self.ahead = ahead
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead.total_seconds():+f}\n")
        os.replace(new, self._file)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
