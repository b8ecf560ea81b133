"""DHCP and DNS of a network: one dnsmasq in its router namespace, which outlives the agent."""

from virtplane_drivers.network.linux.dnsmasq.configuration import own_addresses as own_addresses
from virtplane_drivers.network.linux.dnsmasq.server import NameServers as NameServers
