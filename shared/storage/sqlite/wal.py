"""The write-ahead log: how long it is, and when it goes into the file.

Source: https://sqlite.org/fileformat2.html, section 4 ("The Write-Ahead Log").
"""

import os
import struct
from pathlib import Path

_HEADER = 32
_FRAME_HEADER = 24
_PAGE_SIZE_AT, _SALTS_AT, _FRAME_SALTS_AT = 8, 16, 8


def frames(log: Path) -> int:
    """How many frames of the log count. It is not made shorter when it begins anew, so what is left of
    the round before is told by its salts; they change between two frames, which is looked for by halves."""
    try:
        handle = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        header = os.pread(handle, _HEADER, 0)
        if len(header) < _HEADER:
            return 0
        salts = header[_SALTS_AT : _SALTS_AT + 8]
        size = _FRAME_HEADER + struct.unpack_from(">I", header, _PAGE_SIZE_AT)[0]
        low, high = 0, (os.fstat(handle).st_size - _HEADER) // size
        while low < high:
            middle = (low + high) // 2
            if os.pread(handle, 8, _HEADER + middle * size + _FRAME_SALTS_AT) == salts:
                low = middle + 1
            else:
                high = middle
        return low
    finally:
        os.close(handle)


def log_of(file: Path) -> Path:
    """The log of a store's file."""
    return file.with_name(f"{file.name}-wal")
