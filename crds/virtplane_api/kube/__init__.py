"""The Kubernetes API as this project uses it: a thin client, watches, leases, conditions, events."""
