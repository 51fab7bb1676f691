"""Models: loading, saving, and what a checkpoint remembers."""
