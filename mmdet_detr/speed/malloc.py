"""What the C library does with memory that was freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory in this process, where the C library is glibc.

    By default large tensors go back to the system when they are freed, and come again page by page. That can take
    long, depending on what ran before. A process that runs one detector for long settles; one in
    which detectors take turns measures that instead of them.
    """
    library = _glibc()
    if library:
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never


def give_freed_memory_back() -> None:
    """Give what was kept to the system, for other processes."""
    library = _glibc()
    if library:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if sys.platform == 'linux' else None
    return library if hasattr(library, 'gnu_get_libc_version') else None
