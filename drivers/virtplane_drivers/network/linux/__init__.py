"""Networks of a Linux host: each one a router network namespace with a bridge, rules of its own and a dnsmasq."""
