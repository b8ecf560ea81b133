"""The agent: runs beside a hypervisor, acts on what is placed on it, and writes what it sees onto the resources."""

__version__ = "0.1.0"
