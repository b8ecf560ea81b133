"""Drivers: each knows one technology and nothing of Kubernetes. Plain values in, plain values out.

Families: `hypervisor` runs machines, `storage` makes disks, `network` joins them. Each family has a contract and one
test suite that every driver of the family passes. What storage and networks give and a hypervisor takes is an
`attachment`.
"""
