"""Workers of data loaders, and the signals that a cluster sends to every process of a job."""

import gc
import multiprocessing
import os
import signal
import threading
import time

import torch

from ..datasets.randomness import seed_all
from ..registry import FUNCTIONS

GRACE = 5  # seconds


@FUNCTIONS.register_module()
def leave_signals_to_parent(worker_id: int) -> None:
    """A data loader's ``worker_init_fn``: SIGTERM and SIGUSR1 are for the training process alone.

    A worker that ended on them would end the run before :class:`PreemptionHook` could save. It still ends on the
    SIGTERM that its parent sends, and with its parent. Workers that are not forked, and those of systems without
    ``signal.sigwaitinfo`` (macOS, Windows), end as they would anyway. Takes the place of mmengine's function and, as
    that does, makes workers of different ranks draw different numbers. What a worker was forked with is left alone by
    its garbage collection, which would copy the memory of all these objects by visiting them.
    """
    gc.freeze()
    seed_all((torch.initial_seed(), int(os.environ.get('RANK', '0'))))
    if hasattr(signal, 'sigwaitinfo') and multiprocessing.get_start_method(allow_none=True) == 'fork':
        signals = {signal.SIGTERM, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # threads to come inherit it
        threading.Thread(target=_obey_parent, args=(signals,), daemon=True).start()


def _obey_parent(signals: set[signal.Signals]) -> None:
    parent, main = multiprocessing.parent_process(), threading.main_thread()
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGTERM and parent is not None and received.si_pid == parent.pid:
            signal.pthread_kill(main.ident or 0, signal.SIGINT)  # ends with its temporary files removed
            time.sleep(GRACE)
            os._exit(0)
