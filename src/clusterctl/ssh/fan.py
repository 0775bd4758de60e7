"""All nodes at once: a thread a node, a deadline for all, trouble as a value."""

from __future__ import annotations

import contextvars
import queue
import resource
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from clusterctl.findings import NodeError
from clusterctl.interruption import wait_for
from clusterctl.inventory import Node
from clusterctl.ssh.base import NodeFailure, failure

T = TypeVar("T")

FILES_PER_NODE = 16
"""A socket, a proxy's pipes, and two pipes a process; while ssh -G runs, three more."""

FILES_OF_OUR_OWN = 256


class _Closable(Protocol):
    def close(self) -> None: ...


class Scope:
    """What one node's work has opened, so that it can be ended from outside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: list[_Closable] = []
        self._abandoned = False

    def add(self, thing: _Closable) -> None:
        """Remember something to close; when the work was given up, close it and say so."""
        with self._lock:
            if not self._abandoned:
                self._opened.append(thing)
                return
        thing.close()
        raise failure("timeout", "this node's work was given up", "run again")

    def abandon(self) -> None:
        """Close all that the work has opened, and all that it will."""
        with self._lock:
            self._abandoned = True
            opened, self._opened = self._opened, []
        for thing in opened:
            thing.close()


_current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("scope", default=None)


def register(thing: _Closable) -> None:
    """Tie something to the node's work that this thread does, if it does any."""
    scope = _current.get()
    if scope is not None:
        scope.add(thing)


def fan_out(
    nodes: Iterable[Node],
    work: Callable[[Node], T],
    *,
    deadline_s: float,
    on_done: Callable[[str, T | NodeError], None] | None = None,
) -> dict[str, T | NodeError]:
    """Do the work for every node at once and give each node's result or why there is none.

    ``on_done`` is called in the calling thread, as results come. A node that outlasts the
    deadline becomes a ``timeout``; its thread is left behind and its connections are closed.
    Whatever ends this early (Ctrl-C) closes the connections of unfinished nodes as well. An
    exception of ``work`` other than :class:`NodeFailure` is a bug of ours and is raised here.
    """
    nodes = list(nodes)
    _allow_files(FILES_PER_NODE * len(nodes))
    results: queue.SimpleQueue[tuple[str, T | NodeError | BaseException]] = queue.SimpleQueue()
    scopes = {node.name: Scope() for node in nodes}
    deadline = time.monotonic() + deadline_s
    done: dict[str, T | NodeError] = {}

    def finish(name: str, result: T | NodeError) -> None:
        done[name] = result
        del scopes[name]
        if on_done is not None:
            on_done(name, result)

    try:
        for node in nodes:
            thread = threading.Thread(
                target=_work_on, args=(node, work, scopes[node.name], results), daemon=True
            )
            thread.start()
        while scopes:
            remaining = deadline - time.monotonic()
            try:
                name, result = wait_for(results, remaining)
            except queue.Empty:
                break
            if isinstance(result, BaseException):
                raise result
            finish(name, result)
        for name in list(scopes):
            scopes[name].abandon()
            finish(name, _outlasted(deadline_s))
    finally:
        for scope in scopes.values():
            scope.abandon()
    return {node.name: done[node.name] for node in nodes}


def _allow_files(count: int) -> None:
    """Raise this process's soft limit of open files; many systems start with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + FILES_OF_OUR_OWN
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _work_on(
    node: Node,
    work: Callable[[Node], T],
    scope: Scope,
    results: queue.SimpleQueue[tuple[str, T | NodeError | BaseException]],
) -> None:
    _current.set(scope)
    try:
        results.put((node.name, work(node)))
    except NodeFailure as trouble:
        results.put((node.name, trouble.error))
    except BaseException as error:  # noqa: BLE001 - carried to the calling thread, raised there
        results.put((node.name, error))


def _outlasted(deadline_s: float) -> NodeError:
    return NodeError(
        "timeout",
        f"not finished within {deadline_s:g} s",
        "log in to the node and look at its load, its disks and its kernel log",
    )
