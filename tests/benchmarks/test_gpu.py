"""benchmarks/gpu.py on a CPU, with a tiny UNet of the same structure, so that it works when there is a GPU."""

import subprocess
import sys

import gpu
import numpy as np
import pytest
import sd21_unet
import torch
from sd21_unet import Sizes

TINY = {"channels": (8, 16, 16, 16), "layers": 1, "head": 8, "context": 12, "groups": 4, "latent": 8, "tokens": 5}


def test_the_unet_has_as_many_parameters_as_the_original():
    assert sd21_unet.count_parameters(Sizes()) == sd21_unet.PARAMETERS
    gpu.check_size()


def test_another_size_is_refused(monkeypatch):
    monkeypatch.setattr(sd21_unet, "PARAMETERS", 10**9)
    with pytest.raises(RuntimeError, match=r"the UNet has 865910724 parameters; the original has 1000000000"):
        gpu.check_size()


def test_the_unet_computes_the_same_as_diffusers():
    """With the original's number of layers; the weights are assigned by name."""
    from diffusers import UNet2DConditionModel

    sizes = Sizes(**{**TINY, "layers": 2})
    theirs = UNet2DConditionModel(
        sample_size=sizes.latent,
        in_channels=4,
        out_channels=4,
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        attention_head_dim=[width // sizes.head for width in sizes.channels],  # in fact, the number of heads
        cross_attention_dim=sizes.context,
        use_linear_projection=True,
        norm_num_groups=sizes.groups,
    ).eval()
    ours = sd21_unet.UNet(sizes).eval()
    ours.load_state_dict(theirs.state_dict())
    sample, timestep, context = (torch.tensor(array) for array in sd21_unet.inputs_for(sizes, 2).values())
    with torch.inference_mode():
        expected = theirs(sample, timestep[0], context).sample
        np.testing.assert_allclose(ours(sample, timestep, context), expected, atol=1e-5)


def test_all_variants_are_measured_and_agree():
    torch.set_num_threads(1)  # as in the workers: this process has few cores
    measured = gpu.measure("cpu:0", TINY, steps=2, rounds=2, trace=None)
    assert [variant.title for variant in measured] == ["directly", "through 1 instance", "through 2 instances"]
    for variant in measured:
        assert variant.step_ms > 0 and variant.stream_ms > 0
        assert (variant.engine_ms is None) == (variant.title == "directly")
        assert variant.engine_ms is None or 0 < variant.engine_ms < variant.step_ms
    assert gpu.tabulate(measured, "tiny").row_count == 3


def test_wrong_results_are_not_timed():
    with pytest.raises(RuntimeError, match=r"through 1 instance the result differs .* by 100.00% of its largest"):
        gpu.check("through 1 instance", np.zeros((2, 4)), np.ones((2, 4)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_sentence():
    done = subprocess.run([sys.executable, gpu.__file__], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    finds = f"error: torch {torch.__version__} finds no GPU (torch.cuda.is_available() is False)"
    assert done.stderr == f"{finds}; this benchmark needs one\n"
    assert done.stdout == ""
