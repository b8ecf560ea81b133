"""What a guest agent's client may raise.

::

    GuestAgentError
    ├── AgentRefused        the agent answered with an error
    ├── AgentSilent         no answer in time: no agent, a busy one, or a hostile one; what was asked may still happen
    ├── AgentGarbage        what came is no answer, or has no end; the next request begins anew
    └── AgentDisconnected   the channel has ended; nothing is known of what was asked
"""


class GuestAgentError(Exception):
    """Anything that a guest agent's client reports."""


class AgentRefused(GuestAgentError):
    """The agent's own error: its class and its words, shortened. A guest wrote them."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"{command}: {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


class AgentSilent(GuestAgentError):
    """No answer in time."""


class AgentGarbage(GuestAgentError):
    """No answer, but bytes."""


class AgentDisconnected(GuestAgentError):
    """The channel to the guest has ended."""
