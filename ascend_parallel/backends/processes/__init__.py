"""The process backend: one worker process a device, fed through shared memory."""
