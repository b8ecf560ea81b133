"""Volumes that are placed on this agent: made, kept, and taken away when nobody may use them any more."""
