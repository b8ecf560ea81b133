"""A QMP server that floods: a double, as no QEMU does it as fast. `python -m tests.bench.monitor.event_server SOCKET`.

It answers `flood` after `arguments.events` events, and serves one client after the other until it is ended.
"""

import json
import socket
import sys

EVENT = (
    b'{"timestamp": {"seconds": 1795567550, "microseconds": 414753}, "event": "NIC_RX_FILTER_CHANGED", '
    b'"data": {"name": "net0", "path": "/machine/peripheral/net0/virtio-backend"}}\r\n'
)
BURST = 500


def serve(client: socket.socket) -> None:
    """One client to its end."""
    lines = client.makefile("rb")
    client.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
    for line in lines:
        request = json.loads(line)
        if request["execute"] == "flood":
            for _ in range(request["arguments"]["events"] // BURST):
                client.sendall(EVENT * BURST)
        client.sendall(json.dumps({"return": {}, "id": request["id"]}).encode() + b"\r\n")


def main(path: str) -> None:
    """Serve for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        print("ready", flush=True)
        while True:
            client, _address = listener.accept()
            with client:
                serve(client)


if __name__ == "__main__":
    main(sys.argv[1])
