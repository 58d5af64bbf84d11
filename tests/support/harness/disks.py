"""Small disks of a test's own, that can be full, refuse writes, or turn read-only.

They are mounted, so they need root, or a `sudo` that asks for no password; where that is not there, tests
fail: what a full disk does is not left untested.
"""

import os
import subprocess
from pathlib import Path

MEGABYTE = 1 << 20


def as_root(*command: str) -> str:
    """Raises RuntimeError with what the command said."""
    given = command if os.geteuid() == 0 else ("sudo", "-n", *command)
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(given)}: {done.stderr.strip()}")
    return done.stdout.strip()


class Disk:
    """A disk of some megabytes, mounted on a folder until `close`."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._megabytes = megabytes
        folder.mkdir()
        self._mount()

    def _mount(self) -> None:
        as_root("mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m", "tmpfs", str(self.folder))

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            for size in (MEGABYTE, 4096, 1):
                try:
                    while True:
                        filler.write(b"." * size)
                except OSError:
                    continue

    def free(self) -> None:
        """Remove what `fill` wrote."""
        (self.folder / "filler").unlink()

    def close(self) -> None:
        # Lazily: a test that failed may have left files open.
        as_root("umount", "--lazy", str(self.folder))


class Ext4(Disk):
    """A real file system, on a file; what is not synced stays in memory for long."""

    def _mount(self) -> None:
        if not self._image.exists():
            with self._image.open("wb") as image:
                image.truncate(self._megabytes * MEGABYTE)
            as_root("mkfs.ext4", "-q", str(self._image))
        options = "loop,errors=remount-ro,commit=300"
        as_root("mount", "-t", "ext4", "-o", options, str(self._image), str(self.folder))
        as_root("chmod", "777", str(self.folder))

    @property
    def _image(self) -> Path:
        return self.folder.with_suffix(".img")

    def after_power_loss(self, folder: Path) -> "Ext4":
        """Another disk, with what is on this one at this moment, and nothing that waits in memory."""
        as_root("cp", "--sparse=always", str(self._image), str(folder.with_suffix(".img")))
        return Ext4(folder, self._megabytes)

    def refuse(self, file: Path) -> None:
        """Refuse writes to a file, also from those who have it open."""
        as_root("chattr", "+i", str(file))

    def accept(self, file: Path) -> None:
        as_root("chattr", "-i", str(file))

    def turn_read_only(self) -> None:
        """As the kernel does after an error of the disk; only `attach_anew` ends it."""
        device = Path(as_root("findmnt", "-no", "SOURCE", str(self.folder))).name
        as_root("sh", "-c", f"echo by-a-test > /sys/fs/ext4/{device}/trigger_fs_error")

    def attach_anew(self) -> None:
        """After nobody has a file of it open any more."""
        as_root("umount", str(self.folder))
        self._mount()
