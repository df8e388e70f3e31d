"""Jobs of this machine: the coordinator and the workers as processes."""
