"""What a monitor may raise.

::

    MonitorError
    ├── CommandFailed        QEMU answered with an error; the connection is good
    ├── MonitorTimeout       no answer in time; the command may still take effect, its late reply is dropped
    └── MonitorClosed        the connection ended; nothing is known of the commands that waited
        └── ProtocolViolation   the other side did not speak QMP; the connection was ended for it
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


class MonitorClosed(MonitorError):
    """The connection has ended."""


class ProtocolViolation(MonitorClosed):
    """The other side sent what is no QMP."""
