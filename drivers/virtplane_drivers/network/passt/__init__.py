"""Networks of an agent without root: each port a passt, which speaks for its guest as a program of the host."""

from virtplane_drivers.network.passt.driver import PasstNetworks as PasstNetworks
