"""reasonrl: reinforcement learning of reasoning, as composable Unix stages."""

__version__ = "0.1.0"
