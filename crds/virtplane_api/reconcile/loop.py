"""A level-triggered loop over keys.

A key is worked on by one pass at a time; a key that is enqueued during its own pass gets another pass afterwards, so no
change is missed and none is queued twice. Passes of different keys run side by side, up to `concurrency`. A pass that
raises is a fault of that key alone: logged, and repeated with backoff.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from virtplane_api.reconcile.backoff import backoff_s
from virtplane_api.reconcile.outcome import Done, Failed, Outcome, Wait
from virtplane_api.reconcile.tally import Tally

_log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class ReconcileLoop(Generic[K]):
    """Runs `reconcile(key)` for each key that is enqueued, until `run` is cancelled."""

    def __init__(
        self,
        name: str,
        reconcile: Callable[[K], Awaitable[Outcome]],
        *,
        concurrency: int,
        pass_timeout_s: float = 120.0,
    ) -> None:
        self.name = name
        self.tally = Tally()
        self._reconcile = reconcile
        self._concurrency = concurrency
        self._pass_timeout_s = pass_timeout_s
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()
        self._running: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()

    @property
    def depth(self) -> int:
        """Keys that wait for a pass or are in one; those that wait for a time are not counted."""
        return len(self._queued) + len(self._running)

    def enqueue(self, key: K) -> None:
        """Ask for a pass over the key, as soon as there is room."""
        self._cancel_timer(key)
        if key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._wake.set()

    def enqueue_after(self, key: K, after_s: float) -> None:
        """Ask for a pass after a time; of several the earliest counts."""
        if key in self._queued:
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + after_s
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(when, self.enqueue, key)

    def forget(self, key: K) -> None:
        """Drop the key's timer and its count of failures; for objects that are gone."""
        self._cancel_timer(key)
        self._failures.pop(key, None)

    async def run(self) -> None:
        """Work until cancelled; passes that run are then cancelled and waited for."""
        try:
            async with asyncio.TaskGroup() as passes:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    self._launch(passes)
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    def _launch(self, passes: asyncio.TaskGroup) -> None:
        for _ in range(len(self._ready)):
            if len(self._running) >= self._concurrency:
                return
            key = self._ready.popleft()
            if key in self._running:
                self._ready.append(key)
                continue
            self._queued.discard(key)
            self._running.add(key)
            passes.create_task(self._pass(key), name=f"{self.name} {key}")

    async def _pass(self, key: K) -> None:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._pass_timeout_s):
                outcome = await self._reconcile(key)
        except TimeoutError:
            outcome = Failed("Timeout", f"a pass took longer than {self._pass_timeout_s:g} s")
            _log.exception("%s %s: %s", self.name, key, outcome.message)
        except Exception as error:  # noqa: BLE001  # one object's fault stays with that object
            outcome = Failed("Fault", repr(error))
            _log.exception("%s %s: a fault in this program", self.name, key)
        finally:
            self._running.discard(key)
            if self._ready:
                self._wake.set()
        self.tally.add(outcome, asyncio.get_running_loop().time() - began)
        self._schedule(key, outcome)

    def _schedule(self, key: K, outcome: Outcome) -> None:
        match outcome:
            case Done():
                self._failures.pop(key, None)
            case Wait(after_s=after_s):
                self._failures.pop(key, None)
                self.enqueue_after(key, after_s)
            case Failed(retry_after_s=at_least_s):
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                self.enqueue_after(key, max(backoff_s(failures), at_least_s or 0.0))

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
