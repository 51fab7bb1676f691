"""Return-conditioned RL."""
