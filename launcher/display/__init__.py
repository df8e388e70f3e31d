"""Shows people and scripts how a job stands; what is said is decided by pure functions."""
