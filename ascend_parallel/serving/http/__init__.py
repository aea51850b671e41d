"""The HTTP server: uvicorn, with a way of its own for the infer route."""
