"""The Hypervisor objects of this agent: made once, and kept saying what this host is and reaches."""
