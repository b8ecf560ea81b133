"""What drivers of networks are told, from VirtualNetwork and VirtualMachine."""

from ipaddress import ip_address, ip_network

from tests.agent.objects import HYPERVISOR, network, placed_interface, vm
from virtplane_agent.networks.desired import network_value, ports_of
from virtplane_api.kube.resources import Object
from virtplane_api.vocabulary import Addressing, ForwardProtocol, NetworkMode
from virtplane_drivers.network.contract import UNLIMITED, Bandwidth, Network, Port, PortForward, Route, Subnet

LAN = network()


def test_a_network_that_says_little_has_the_first_address_as_gateway_and_a_domain_of_its_own() -> None:
    assert network_value(LAN, ()) == Network(
        uid="lan-uid",
        namespace="shop",
        name="lan",
        mode=NetworkMode.NAT,
        ipv4=Subnet(ip_network("10.20.0.0/24"), ip_address("10.20.0.1"), Addressing.DHCP),
        mtu=1500,
        domain="lan.shop.internal",
    )


def test_a_network_that_says_everything_is_told_as_it_says() -> None:
    full = network(
        "wide",
        mode="Bridge",
        bridge={"name": "br-lan", "vlan": 20},
        ipv4={"cidr": "10.20.0.0/24", "gateway": "10.20.0.254", "addressing": "Static"},
        ipv6={"cidr": "fd00:20::/64", "gateway": "None"},
        mtu=9000,
        dns={"domain": "shop.test", "forwarders": ["192.0.2.53"]},
        routes=[{"destination": "10.99.0.0/16", "via": "10.20.0.5"}],
    )
    assert network_value(full, ()) == Network(
        uid="wide-uid",
        namespace="shop",
        name="wide",
        mode=NetworkMode.BRIDGE,
        ipv4=Subnet(ip_network("10.20.0.0/24"), ip_address("10.20.0.254"), Addressing.STATIC),
        ipv6=Subnet(ip_network("fd00:20::/64"), None, Addressing.DHCP),
        mtu=9000,
        domain="shop.test",
        forwarders=(ip_address("192.0.2.53"),),
        routes=(Route(ip_network("10.99.0.0/16"), ip_address("10.20.0.5")),),
        host_bridge="br-lan",
        vlan=20,
    )


def test_each_interface_on_the_network_is_a_port_and_those_on_others_are_none() -> None:
    dmz = network("dmz")
    forwards = [{"hostPort": 8080, "port": 80, "protocol": "TCP"}]
    machine = vm(
        interfaces=[
            placed_interface("eth1", dmz, "10.30.0.9", mac="52:54:00:00:00:02"),
            placed_interface("eth0", LAN, "10.20.0.9", "fd00:20::9"),
        ],
    )
    machine["status"]["placement"]["interfaces"][1]["portForwards"] = forwards
    # Asked for, and not given yet.
    machine["spec"]["interfaces"][1]["portForwards"] = [{"hostPort": 8090, "port": 90, "protocol": "TCP"}]
    assert ports_of([machine], "lan-uid") == (
        Port(
            machine_uid="vm-1",
            machine_name="web",
            interface="eth0",
            mac="52:54:00:00:00:01",
            addresses=(ip_address("10.20.0.9"), ip_address("fd00:20::9")),
            forwards=(PortForward(ForwardProtocol.TCP, 8080, 80),),
        ),
    )


def test_limits_are_bits_per_second_and_each_way_may_have_none() -> None:
    machine = vm(interfaces=[placed_interface("eth0", LAN, "10.20.0.9")])
    for limits, expected in (
        ({"ingress": "10M", "egress": "1500k"}, Bandwidth(10_000_000, 1_500_000)),
        ({"egress": "1Gi"}, Bandwidth(None, 1 << 30)),
        ({}, UNLIMITED),
    ):
        machine["spec"]["interfaces"][0]["bandwidth"] = limits
        assert ports_of([machine], "lan-uid")[0].bandwidth == expected


def reported(machine: Object, *rows: Object, state: str = "Present") -> Object:
    machine["status"] |= {"host": {"hypervisor": HYPERVISOR, "token": 1, "state": state}, "interfaces": list(rows)}
    return machine


def test_what_a_guest_still_has_to_let_go_of_keeps_its_port_and_its_addresses() -> None:
    left = placed_interface("eth0", LAN, "10.20.0.9")
    moved = reported(vm(interfaces=[placed_interface("eth0", network("dmz"), "10.30.0.9")]), left)
    heir = vm("db", uid="vm-2", interfaces=[left])
    for machines in ([moved, heir], [heir, moved]):
        assert [port.machine_uid for port in ports_of(machines, "lan-uid")] == ["vm-1"]
    assert [port.machine_uid for port in ports_of([moved], "dmz-uid")] == ["vm-1"]
    assert [port.machine_uid for port in ports_of([reported(moved), heir], "lan-uid")] == ["vm-2"]
    assert ports_of([reported(moved, left, state="Removed")], "lan-uid") == ()


def test_an_address_that_was_changed_is_in_the_port_at_once() -> None:
    machine = vm(interfaces=[placed_interface("eth0", LAN, "10.20.0.10")])
    [port] = ports_of([reported(machine, placed_interface("eth0", LAN, "10.20.0.9"))], "lan-uid")
    assert port.addresses == (ip_address("10.20.0.10"),)


def test_ports_are_in_an_order_that_does_not_depend_on_the_machines() -> None:
    machines = [
        vm(f"web-{n}", uid=f"vm-{n}", interfaces=[placed_interface(mac=f"52:54:00:00:00:0{n}")]) for n in (3, 1, 2)
    ]
    assert [port.machine_uid for port in ports_of(machines, "lan-uid")] == ["vm-1", "vm-2", "vm-3"]
    assert ports_of(machines, "lan-uid") == ports_of(machines[::-1], "lan-uid")


def test_a_machine_of_which_nothing_is_left_here_has_no_port() -> None:
    gone = {"hypervisor": "host-a-fake", "token": 1, "state": "Removed"}
    machine = vm(interfaces=[placed_interface()], being_deleted=True, status={"host": gone})
    assert ports_of([machine], "lan-uid") == ()
    placed_again = vm(interfaces=[placed_interface()], token=2, status={"host": gone})
    assert len(ports_of([placed_again], "lan-uid")) == 1


def test_an_address_is_the_new_machine_s_while_the_old_one_is_on_its_way_out() -> None:
    old = vm("old", uid="vm-old", interfaces=[placed_interface("eth0", LAN, "10.20.0.9")], being_deleted=True)
    new = vm("new", uid="vm-new", interfaces=[placed_interface("eth0", LAN, "10.20.0.9", mac="52:54:00:00:00:02")])
    for machines in ([old, new], [new, old]):
        assert [port.machine_uid for port in ports_of(machines, "lan-uid")] == ["vm-new"]
