"""VirtualMachineActions: whom the operator gives them to, and when they are over or gone."""
