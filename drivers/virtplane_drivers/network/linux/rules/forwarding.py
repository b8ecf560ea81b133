"""Other people's rules that keep packets from being forwarded: found and named, never edited.

An accept of ours does not override a drop of another table's: of all chains on a hook each must let a packet pass. So
what Docker (a chain FORWARD with policy drop) or firewalld (a last rule that rejects) stops can only be let pass by
rules in their own chains, which are for a person to add. The finding says how, and is gone once they are there.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtplane_api.reasons import Reason
from virtplane_drivers.network.linux.names import host_table
from virtplane_drivers.network.linux.rules.nft import command
from virtplane_drivers.network.linux.values import Finding

_FAMILIES = frozenset({"ip", "ip6", "inet"})
_OURS = host_table("")
_PLACEHOLDER = "LINK"
_Expression = dict[str, Any]


@dataclass(slots=True)
class _Chain:
    """A chain as nft lists it, with the expressions of its rules."""

    family: str
    table: str
    name: str
    hook: str | None
    policy: str | None
    rules: list[list[_Expression]] = field(default_factory=list)


async def forwarding_findings(host_namespace: Path | None, links: Sequence[str] = ()) -> list[Finding]:
    """What keeps packets of our links from being forwarded, one finding for each chain.

    `links`: the host's ends of the veths. A chain that accepts what comes from all of them is none. Without any, all
    chains that would drop are found.

    Raises:
        Unavailable: nft is missing (NetworkError).
    """
    # Without sets' elements, which may be a great many (terse).
    printed = await command(host_namespace, "nft", "-j", "-t", "list", "ruleset")
    return findings_in(json.loads(printed)["nftables"] if printed.strip() else [], links)


def findings_in(listed: Sequence[_Expression], links: Sequence[str]) -> list[Finding]:
    """The same, of what `nft -j list ruleset` says. Pure."""
    chains = {(chain.family, chain.table, chain.name): chain for chain in _chains(listed)}
    findings = []
    for chain in chains.values():
        if chain.hook != "forward" or chain.family not in _FAMILIES or chain.table.startswith(_OURS):
            continue
        beside = {one.name: one for one in chains.values() if (one.family, one.table) == (chain.family, chain.table)}
        blocked = [link for link in links or (_PLACEHOLDER,) if not _accepts_from(link, chain, beside)]
        if _drops_the_rest(chain) and blocked:
            findings.append(_finding(chain, beside, blocked))
    return findings


def _chains(listed: Sequence[_Expression]) -> Iterator[_Chain]:
    chains: dict[tuple[str, str, str], _Chain] = {}
    for entry in listed:
        if chain := entry.get("chain"):
            key = chain["family"], chain["table"], chain["name"]
            chains[key] = _Chain(*key, chain.get("hook"), chain.get("policy"))
        elif rule := entry.get("rule"):
            chains[rule["family"], rule["table"], rule["chain"]].rules.append(rule["expr"])
    yield from chains.values()


def _drops_the_rest(chain: _Chain) -> bool:
    if chain.policy == "drop":
        return True
    last = chain.rules[-1] if chain.rules else []
    return not _matches(last) and any("drop" in expression or "reject" in expression for expression in last)


def _accepts_from(link: str, chain: _Chain, beside: dict[str, _Chain]) -> bool:
    """Whether all that comes from the link is accepted, in the chain or in one that it goes on to."""
    pending, seen = [chain], {chain.name}
    while pending:
        for rule in pending.pop().rules:
            matches = _matches(rule)
            is_of_link = len(matches) == 1 and _is_from(link, matches[0])
            if matches and not is_of_link:
                continue
            for expression in rule:
                if "accept" in expression and is_of_link:
                    return True
                target = (expression.get("jump") or expression.get("goto") or {}).get("target")
                if target in beside and is_of_link and _accepts_all(beside[target]):
                    return True
                if target in beside and target not in seen and not matches:
                    seen.add(target)
                    pending.append(beside[target])
    return False


def _accepts_all(chain: _Chain) -> bool:
    return any(not _matches(rule) and any("accept" in expression for expression in rule) for rule in chain.rules)


def _matches(rule: list[_Expression]) -> list[_Expression]:
    """All that a packet must be for the rule to count; what we do not know counts as such."""
    harmless = {"counter", "log", "accept", "drop", "reject", "jump", "goto", "return"}
    return [expression for expression in rule if not harmless & expression.keys()]


def _is_from(link: str, expression: _Expression) -> bool:
    match = expression.get("match", {})
    if match.get("left") != {"meta": {"key": "iifname"}} or match.get("op") not in {"==", "in"}:
        return False
    right = match.get("right")
    names = right.get("set", []) if isinstance(right, dict) else [right]
    return any(name == link or (str(name).endswith("*") and link.startswith(str(name)[:-1])) for name in names)


def _finding(chain: _Chain, beside: dict[str, _Chain], links: list[str]) -> Finding:
    where = f"{chain.family} {chain.table} {chain.name}"
    if chain.table == "firewalld":
        commands = [f"firewall-cmd --permanent --zone=trusted --add-interface={link}" for link in links]
        commands.append("firewall-cmd --reload")
    else:
        # Docker leaves this chain to its users, and makes the other one anew.
        target = "DOCKER-USER" if "DOCKER-USER" in beside else chain.name
        commands = [
            f"nft insert rule {chain.family} {chain.table} {target} {direction} {link} accept"
            for link in links
            for direction in ("iifname", "oifname")
        ]
    message = (
        f"the chain {where} of this host's nftables drops what it does not know, so this network's packets are not"
        f" forwarded; virtplane never edits it, you can: {'; '.join(commands)}"
    )
    return Finding(Reason.FORWARDING_BLOCKED, message)
