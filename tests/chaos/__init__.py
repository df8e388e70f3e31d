"""The fault laboratory: a real job under a storm of faults that a seed decides, and the proof that nothing was lost."""
