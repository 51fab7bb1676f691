"""Trainers: what they share, and a room for each algorithm."""
