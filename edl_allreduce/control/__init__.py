"""The control protocol of coordinator, workers and launcher: `control.proto` and the code that scripts/protos.sh generates from it."""
