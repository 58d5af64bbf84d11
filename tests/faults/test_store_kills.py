"""Kill -9 of a process that writes to the embedded store, again and again, on one folder (F1, F7)."""

import os
import subprocess
import sys
from pathlib import Path

ROUNDS = int(os.environ.get("MDM_TEST_STORE_KILLS", "100"))
"""About 0.13 s each; 200 before a release."""


def test_nothing_acknowledged_is_lost_and_nothing_deleted_comes_back_however_often_it_is_killed(
    tmp_path: Path,
) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.faults.store_kills",
        str(tmp_path / "data"),
        str(ROUNDS),
        "1",
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout.splitlines()[-1])
