"""Metrics, intervals, calibration, and their tables and plots."""
