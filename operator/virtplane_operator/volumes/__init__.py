"""Volumes as the operator decides on them: which a machine's disks need, where they are made, who may use them."""
