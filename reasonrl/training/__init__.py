"""Trainers, one readable file for each algorithm. What two of them share is in loop, losses or batching."""
