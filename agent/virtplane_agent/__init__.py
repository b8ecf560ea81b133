"""The agent: acts on what is placed on its hypervisors, watches them, and writes what it sees back."""
