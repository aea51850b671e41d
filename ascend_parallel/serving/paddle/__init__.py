"""The pipeline service of Paddle Serving 0.9.0, for its clients: over HTTP and over gRPC."""
