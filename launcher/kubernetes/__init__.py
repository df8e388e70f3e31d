"""Jobs on Kubernetes: the coordinator and the workers as pods."""
