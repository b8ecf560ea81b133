"""Hypervisor drivers. `contract` says what each of them can be asked."""
