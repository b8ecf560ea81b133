"""Where the agent's HTTP server listens, as `--metrics-address` says it."""

import re
from ipaddress import ip_address
from typing import NamedTuple, Self

MAX_PORT = 65535


class AddressUnusable(Exception):
    """The address cannot be listened at."""


class ListenAddress(NamedTuple):
    """An address of this host, or a name of one, and a TCP port; 0: any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`127.0.0.1:9480`, `[::1]:9480`, `localhost:9480`, `0.0.0.0:9480` for all of IPv4, `[::]:9480` for all.

        Raises:
            ValueError: it is none of these.
        """
        host, _, port = text.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > MAX_PORT:
            raise ValueError(f"{text!r} is not of the form HOST:PORT, for example 127.0.0.1:9480")
        if host.startswith("[") and host.endswith("]"):
            return cls(str(ip_address(host[1:-1])), int(port))
        if ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address is written in brackets, for example [::1]:9480")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
