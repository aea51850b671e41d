"""Pictures from text: a Stable Diffusion whose models are served, and batched step by step."""
