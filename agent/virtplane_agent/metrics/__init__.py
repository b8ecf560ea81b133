"""What an agent tells of itself by HTTP, when it is asked: metrics for Prometheus, and whether it is well.

Nothing here runs while nobody asks, and without `--metrics-address` only `subject` is loaded: prometheus_client and
aiohttp's server take 2 MiB.
"""
