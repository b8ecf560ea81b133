"""VirtualMachineActions that are given to this agent: done at most once, and told how they went."""
