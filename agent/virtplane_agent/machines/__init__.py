"""VirtualMachines that are placed on this agent: observe, compare, take one step, report."""
