"""Who is at a socket, by what the kernel says."""

import socket
from pathlib import Path

from virtplane_drivers.network.passt.process import SocketState, socket_state


def test_a_socket_listens_once_it_takes_connections_and_not_when_it_has_its_name(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert socket_state(path) == SocketState(listens=False, joined=False)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(path))
        assert socket_state(path) == SocketState(listens=False, joined=False)
        server.listen()
        assert socket_state(path) == SocketState(listens=True, joined=False)
        client.connect(str(path))
        with server.accept()[0]:
            assert socket_state(path) == SocketState(listens=True, joined=True)
