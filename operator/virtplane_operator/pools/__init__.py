"""StoragePools: which one a disk without a poolName lives in, and what their Hypervisors report, summed up."""
