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
    if sys.platform != 'linux':
        return
    library = ctypes.CDLL(None)
    if hasattr(library, 'mallopt') and hasattr(library, 'gnu_get_libc_version'):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never
