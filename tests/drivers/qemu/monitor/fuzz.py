"""`make fuzz-monitor`: random conversations until so many exchanges are done; exit status 1 if one reply went wrong.

A conversation that failed is played again by its own seed: `--seed N --one`.
"""

import argparse
import secrets
import sys
import time
from random import Random

from tests.drivers.qemu.monitor.conversation import Account, Outcome, converse

EXCHANGES_EACH = 400


def play(seed: int) -> Account:
    """The conversation of this seed."""
    account = converse(Random(seed), EXCHANGES_EACH)
    if misrouted := account.outcomes[Outcome.MISROUTED]:
        account.faults.append(f"{misrouted} misrouted")
    for name in ("lost", "doubled"):
        if count := getattr(account, name):
            account.faults.append(f"{count} {name}")
    account.faults[:] = [f"seed {seed}: {fault}" for fault in account.faults]
    return account


def play_many(seed: int, exchanges: int) -> tuple[Account, int]:
    """So many exchanges, in conversations whose seeds come from this one; and how many conversations it took."""
    seeds, total, count = Random(seed), Account(), 0
    while total.outcomes.total() < exchanges:
        total.add(play(seeds.randrange(1 << 32)))
        count += 1
    return total, count


def main() -> int:
    """Play, count, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.drivers.qemu.monitor.fuzz", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--one", action="store_true", help="only the conversation of this seed")
    arguments = parser.parse_args()
    began = time.monotonic()
    print(f"seed {arguments.seed}", flush=True)
    if arguments.one:
        total, count = play(arguments.seed), 1
    else:
        total, count = play_many(arguments.seed, arguments.exchanges)
    print(f"{total.outcomes.total():,} exchanges in {count:,} conversations, {time.monotonic() - began:.0f} s")
    for name, number in [*total.outcomes.items(), *((f"ended: {end}", n) for end, n in total.ends.items())]:
        print(f"  {name:16} {number:>10,}")
    for name in ("events", "strays", "dropped", "lost", "doubled"):
        print(f"  {name:16} {getattr(total, name):>10,}")
    print(f"  {'misrouted':16} {total.outcomes[Outcome.MISROUTED]:>10,}")
    for fault in total.faults[:50]:
        print(f"FAULT {fault}")
    return 1 if total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
