"""Recorded runs, each in a few numbers, and side by side in a table."""
