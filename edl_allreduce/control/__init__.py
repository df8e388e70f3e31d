"""What coordinator, workers and launcher say to each other: `control.proto`, and what scripts/protos.sh makes of it."""
