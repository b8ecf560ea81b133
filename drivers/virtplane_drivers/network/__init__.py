"""Drivers of networks: what joins the interfaces of machines on a host, and lets them out of it."""
