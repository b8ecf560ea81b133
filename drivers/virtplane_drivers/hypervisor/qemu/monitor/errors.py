"""What a monitor may raise.

::

    MonitorError
    ├── CommandFailed           QEMU answered with an error; the connection is good
    ├── MonitorTimeout          no answer in time; the command may still take effect, its late reply is dropped
    ├── OutOfBandNotOffered     this QEMU runs no command out of band; nothing was sent
    ├── EventsLost              a queue of events was full; look at the state again
    └── MonitorClosed           the connection ended; nothing is known of the commands that waited
        ├── HungUp              by the other side: QEMU closed it, or died
        └── ProtocolViolation   by this side: the other one did not speak QMP
            └── ConnectionSpoilt    QEMU does not read this connection as it was written; a new one is good
"""


class MonitorError(Exception):
    """Anything that a monitor reports."""


class CommandFailed(MonitorError):
    """QEMU's own error: its class and its words."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"{command}: {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


class MonitorTimeout(MonitorError):
    """No answer in time."""


class OutOfBandNotOffered(MonitorError):
    """The greeting named no `oob`: the monitor has no thread of its own in this QEMU."""


class EventsLost(MonitorError):
    """More events than a queue holds came before its reader took them; those before and after are in order."""


class MonitorClosed(MonitorError):
    """The connection has ended."""


class HungUp(MonitorClosed):
    """The other side ended the connection. All that it sent before has been delivered."""


class ProtocolViolation(MonitorClosed):
    """The other side sent what is no QMP."""


class ConnectionSpoilt(ProtocolViolation):
    """QEMU greeted twice, or could not read a request: what else is sent on this connection may be misread too."""
