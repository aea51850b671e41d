"""``ascend-parallel doctor``: what of this machine works, layer by layer, from the kernel to a model on each device."""
