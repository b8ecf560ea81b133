"""Networks for tests, each as a user would have it, and what their routers answer to."""

from dataclasses import replace
from ipaddress import IPv4Network, ip_address
from uuid import uuid4

from tests.drivers.network.numbered import subnet
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network, Port

TRANSIT_CIDR = IPv4Network("169.254.64.0/18")
STATE_ID = "1a2b3c"
CIDRS = "10.77.0.0/24", "fd77::/64"
GATEWAY_IPV4, GATEWAY_IPV6 = "10.77.0.1", "fd77::1"
GUEST_IPV4, GUEST_IPV6 = "10.77.0.5", "fd77::5"
GUEST_MAC = "52:54:00:77:00:05"


def network(mode: NetworkMode = NetworkMode.ISOLATED, **changes: object) -> Network:
    """Of both families, with a UID of its own."""
    one = Network(
        uid=str(uuid4()),
        namespace="default",
        name="green",
        mode=mode,
        ipv4=subnet(CIDRS[0], GATEWAY_IPV4),
        ipv6=subnet(CIDRS[1], GATEWAY_IPV6),
        domain="green.default.test",
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def bridged(bridge: str, **changes: object) -> Network:
    """Of mode Bridge, whose addresses are others' business."""
    return network(NetworkMode.BRIDGE, **{"ipv4": None, "ipv6": None, "domain": "", "host_bridge": bridge, **changes})


def port(machine: str = "web", interface: str = "default") -> Port:
    return Port(str(uuid4()), machine, interface, GUEST_MAC, (ip_address(GUEST_IPV4), ip_address(GUEST_IPV6)))
