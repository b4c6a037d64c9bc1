"""Prepares the worker processes of data loaders: signals, random numbers, memory."""

import gc
import multiprocessing
import os
import signal
import threading
import time

import torch

from ..datasets.randomness import seed_all
from ..registry import FUNCTIONS

GRACE = 5  # seconds that a worker has to clean up after its parent ends it


@FUNCTIONS.register_module()
def leave_signals_to_parent(worker_id: int) -> None:
    """A data loader's ``worker_init_fn``: the worker ignores SIGTERM and SIGUSR1 from other processes than its parent.

    A cluster sends these signals to every process of a job. If they ended a worker, the run would fail before
    :class:`PreemptionHook` can save. A worker still ends on a SIGTERM from its parent, and when its parent ends.
    Workers that are not forked, and those on systems without ``signal.sigwaitinfo`` (macOS, Windows), end on these
    signals as before. This function replaces mmengine's ``worker_init_fn`` and, like that, gives workers of different
    ranks different random numbers.
    """
    gc.freeze()  # garbage collection writes to all objects that it visits, which would copy the parent's memory
    seed_all((torch.initial_seed(), int(os.environ.get('RANK', '0'))))
    if hasattr(signal, 'sigwaitinfo') and multiprocessing.get_start_method(allow_none=True) == 'fork':
        signals = {signal.SIGTERM, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # threads that start later inherit this
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell start ignoring it
        threading.Thread(target=_obey_parent, args=(signals,), daemon=True).start()


def _obey_parent(signals: set[signal.Signals]) -> None:
    """Wait for signals forever, and end this process on a SIGTERM from its parent."""
    parent, main = multiprocessing.parent_process(), threading.main_thread()
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGTERM and parent is not None and received.si_pid == parent.pid:
            signal.pthread_kill(main.ident or 0, signal.SIGINT)  # KeyboardInterrupt lets it remove its temporary files
            time.sleep(GRACE)
            os._exit(0)
