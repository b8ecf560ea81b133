"""Drivers: each knows one technology and nothing of Kubernetes. Plain values in, plain values out.

Families: `hypervisor` runs machines, `storage` makes disks. Each family has a contract and one test suite that every
driver of the family passes. What storage gives and a hypervisor takes is an `attachment`.
"""
