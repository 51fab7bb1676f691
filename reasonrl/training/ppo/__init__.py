"""PPO, GRPO and RLOO."""
