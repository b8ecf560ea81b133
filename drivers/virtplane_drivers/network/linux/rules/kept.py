"""Rules that were put into namespaces, and whether they are still as they were put there.

While the generation of a namespace's rules is the same nothing there has changed, which is one cheap question. When it
is another, somebody changed something. In a namespace of ours alone that was ours, and all is put in again. In one that
we share it may have been somebody else's own: the kernel keeps no text of ours to compare with, but what it printed
right after our transaction is to be what it prints now.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.network.linux.rules.nft import generation, run
from virtplane_drivers.network.linux.rules.ruleset import Ruleset, changes, whole

_log = logging.getLogger(__name__)

_ATTEMPTS = 3
_OWN = Path("/proc/self/ns/net")


@dataclass(frozen=True, slots=True)
class _Kept:
    ruleset: Ruleset
    printed: bytes | None
    """Digest of what the kernel printed of it; None: it was not asked, as printing 1,000 ports takes 0.1 s."""
    inode: int
    """Of the namespace: another may have been made under its name."""
    generation: int


class KeptRules:
    """The tables of each namespace. What an earlier process put there is replaced by the first `ensure`, at once."""

    def __init__(self, *, shared: bool) -> None:
        self._is_shared = shared
        """Whether others have rules in these namespaces as well."""
        self._kept: dict[Path | None, _Kept] = {}

    async def ensure(self, namespace: Path | None, ruleset: Ruleset) -> None:
        """The tables are so: nothing is done, or elements are changed, or all is replaced, in one transaction.

        Raises:
            Unavailable: the namespace is gone, or nft refuses (NetworkError); the kernel has the old rules or the new.
        """
        kept, script, before = self._kept.get(namespace), None, None
        if kept is not None and (before := await self._intact_at(namespace, kept)) is not None:
            script = changes(kept.ruleset, ruleset)
            if not script:
                return
        self._kept.pop(namespace, None)
        for _ in range(_ATTEMPTS):
            # Of a script since our look: what was changed between the two is not ours.
            if script is None or before is None:
                before = await generation(namespace)
            try:
                await run(namespace, whole(ruleset) if script is None else script)
            except Unavailable as error:
                if script is None:
                    raise
                _log.info(
                    "the rules in %s could not be changed, all of ours are put in again: %s",
                    namespace or "the host",
                    error,
                )
                script = None
                continue
            printed = await _printed(namespace, ruleset) if self._is_shared else None
            after = await generation(namespace)
            # Was it ours alone? Else somebody may have changed our tables since.
            if (after - before) % 2**32 == 1:
                self._kept[namespace] = _Kept(ruleset, printed, await _inode(namespace), after)
                return
            script = None
        # They are in, and nothing is known of them: the next call puts them in again.

    async def holds(self, namespace: Path | None) -> bool:
        """Whether the tables are as the last `ensure` left them.

        Raises:
            Unavailable: the namespace is gone (NetworkError).
        """
        kept = self._kept.get(namespace)
        return kept is not None and await self._intact_at(namespace, kept) is not None

    def forget(self, namespace: Path | None) -> None:
        """The next `ensure` replaces all."""
        self._kept.pop(namespace, None)

    async def _intact_at(self, namespace: Path | None, kept: _Kept) -> int | None:
        """The generation at which the tables were seen to be so; None: they are not."""
        now = await generation(namespace)
        if await _inode(namespace) != kept.inode:
            return None
        if now == kept.generation:
            return now
        if kept.printed is None or await _printed(namespace, kept.ruleset) != kept.printed:
            return None
        if self._kept.get(namespace) is kept:
            self._kept[namespace] = replace(kept, generation=now)
        return now


async def _printed(namespace: Path | None, ruleset: Ruleset) -> bytes | None:
    """None: a table is missing."""
    printed = hashlib.sha256()
    for table in ruleset:
        # One at a time: of two in a script, nft 1.0.6 finds the last one's family only.
        try:
            text = await run(namespace, f"list table {table.address}\n")
        except Unavailable:
            return None
        printed.update(text.encode())
    return printed.digest()


async def _inode(namespace: Path | None) -> int:
    try:
        return (await in_thread((namespace or _OWN).stat)).st_ino
    except OSError as error:
        raise Unavailable(f"network namespace {namespace}: {error}", reason=Reason.NETWORK_ERROR) from error
