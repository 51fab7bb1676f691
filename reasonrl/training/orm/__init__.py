"""The outcome reward model."""
