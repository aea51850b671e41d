"""Stable Diffusion around its three models: folders of models, tokens, the sampler, inputs and sizes."""
