"""Rewards: what a completion earns, for the whole and for its steps."""
