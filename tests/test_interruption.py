"""A signal is heeded where the main thread waits, and nowhere else."""

import os
import queue
import signal
import threading
import time

import pytest

from clusterctl.interruption import Interrupted, heed, signals_interrupt, wait_for


def test_a_signal_does_not_interrupt_what_holds_a_lock() -> None:
    lock = threading.Lock()
    with signals_interrupt():
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert not lock.locked()
        with pytest.raises(Interrupted) as interrupted:
            wait_for(queue.SimpleQueue(), 60)
        assert interrupted.value.signal_number == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_wait(number: signal.Signals) -> None:
    with signals_interrupt():
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        with pytest.raises(Interrupted):
            wait_for(queue.SimpleQueue(), 60)


def test_without_a_signal_a_wait_gives_what_there_is() -> None:
    results: queue.SimpleQueue[int] = queue.SimpleQueue()
    results.put(1)
    with signals_interrupt():
        heed()
        assert wait_for(results, 0) == 1
        with pytest.raises(queue.Empty):
            wait_for(results, 0)


def test_what_was_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
    heed()
