"""Processes that form a ring with each other and do what a benchmark asks them to."""
