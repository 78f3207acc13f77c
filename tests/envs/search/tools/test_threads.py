"""Threads that carry out tool calls: kept for the next call, and never in each other's way."""

import queue
import threading

from envs.search.tools.threads import DaemonThreads


def test_a_thread_is_kept_for_the_next_call():
    threads, idents = DaemonThreads("test"), queue.SimpleQueue()
    for _ in range(5):
        threads.submit(lambda: idents.put(threading.get_ident()))
        first = idents.get(timeout=10)
        while not threads._idle._value:  # the thread says it is idle a moment after its call
            pass
    [thread] = [thread for thread in threading.enumerate() if thread.name == "test"]
    assert thread.ident == first and thread.daemon


def test_calls_that_hang_take_nobodys_place():
    threads, release, done = DaemonThreads("hanging"), threading.Event(), queue.SimpleQueue()
    for _ in range(20):
        threads.submit(release.wait, 60)
    threads.submit(done.put, "over")
    assert done.get(timeout=10) == "over"
    release.set()
