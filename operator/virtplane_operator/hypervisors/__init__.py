"""Hypervisors as the operator sees them: candidates for a placement, and Unknown while their agent is silent."""
