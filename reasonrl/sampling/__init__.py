"""Drawing completions from a policy: one interface, several engines."""
