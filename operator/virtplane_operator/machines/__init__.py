"""VirtualMachines as the operator decides on them: where each one goes, what its disks need, when it may end."""
