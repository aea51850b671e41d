"""What benchmarks/serving_under_fire.py is made of."""
