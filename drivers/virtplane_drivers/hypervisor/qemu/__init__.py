"""The QEMU driver. `monitor` speaks QMP and knows nothing of machines."""
