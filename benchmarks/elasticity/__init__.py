"""What a fault costs a training: kills, hangs, workers that come and go, a coordinator that dies; also of others."""
