"""Controls what the C library does with freed memory."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # constants from glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory in this process if the C library is glibc.

    By default, it goes back to the system, and the next tensor gets its memory page by page. If detectors take turns
    in one process, this can take longer than the detectors themselves.
    """
    if library := _glibc():
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)  # -1 turns trimming off


def give_freed_memory_back() -> None:
    """Give freed memory back to the system, so that other processes can use it."""
    if library := _glibc():
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == 'linux' else None
    return library if hasattr(library, 'gnu_get_libc_version') else None
