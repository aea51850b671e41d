"""Models behind HTTP and gRPC: the requests of many clients joined into batches, on all devices."""
