"""The operator: decides where machines and volumes live, and never talks to a hypervisor."""
