"""The numpy DDIM sampler computes the same as diffusers', and refuses unsupported settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ascend_parallel.diffusion.scheduler import DDIMScheduler

SD21_CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
PREDICTION_TYPES = ("epsilon", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")
TOLERANCE = 1e-5


def load(folder: Path, **changes: Any) -> DDIMScheduler:
    """Return our scheduler, read from a file with Stable Diffusion 2.1's settings and these changes."""
    from ascend_parallel.diffusion.scheduler import DDIMScheduler

    path = folder / "scheduler_config.json"
    path.write_text(json.dumps(SD21_CONFIG | changes))
    return DDIMScheduler.from_config(path)


def denoise(sample: NDArray[np.float32], timestep: int) -> NDArray[np.float32]:
    """Replaces a U-Net: bounded, and different for each element and time step."""
    return np.asarray(np.tanh(0.7 * sample + np.sin(timestep)), np.float32)


def assert_same_samples(folder: Path, steps: int, **changes: Any) -> None:
    """Assert that both schedulers have the same time steps, and agree after each step."""
    ours = load(folder, **changes)
    fields = {k: v for k, v in (SD21_CONFIG | changes).items() if k != "_class_name"}
    theirs: Any = diffusers.DDIMScheduler(**fields)  # type: ignore[no-untyped-call]
    theirs.set_timesteps(steps)
    assert ours.set_timesteps(steps).tolist() == theirs.timesteps.tolist()
    assert ours.timesteps.dtype == np.int64
    mine = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
    other = mine.copy()
    for timestep in ours.timesteps:
        mine = ours.step(denoise(mine, timestep), timestep, mine)
        output = torch.from_numpy(denoise(other, timestep))
        other = theirs.step(output, int(timestep), torch.from_numpy(other)).prev_sample.numpy()
        np.testing.assert_allclose(mine, other, rtol=TOLERANCE, atol=TOLERANCE)
    assert mine.dtype == np.float32


@pytest.mark.parametrize("steps", [1, 7, 20, 30, 50, 333])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_samples_equal_diffusers(tmp_path: Path, prediction_type: str, spacing: str, steps: int) -> None:
    assert_same_samples(tmp_path, steps, prediction_type=prediction_type, timestep_spacing=spacing)


@pytest.mark.parametrize("steps", [7, 30, 50])
@pytest.mark.parametrize(
    ("prediction_type", "spacing"),
    [*[("v_prediction", spacing) for spacing in SPACINGS], ("epsilon", "leading")],
)
def test_samples_with_zero_snr_equal_diffusers(tmp_path: Path, prediction_type: str, spacing: str, steps: int) -> None:
    assert_same_samples(
        tmp_path,
        steps,
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        rescale_betas_zero_snr=True,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.5},
        {"set_alpha_to_one": True, "steps_offset": 0},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"num_train_timesteps": 500},
    ],
    ids=str,
)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_samples_with_other_fields_equal_diffusers(
    tmp_path: Path, prediction_type: str, changes: dict[str, Any]
) -> None:
    assert_same_samples(tmp_path, 20, prediction_type=prediction_type, **changes)


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "NotYetInvented"])
def test_the_config_of_other_schedulers_is_read(tmp_path: Path, name: str) -> None:
    ours = load(tmp_path, _class_name=name, skip_prk_steps=True, use_karras_sigmas=False)
    np.testing.assert_array_equal(ours.alphas_cumprod, load(tmp_path).alphas_cumprod)


@pytest.mark.parametrize(
    ("content", "clips"),
    [
        ({"_class_name": "DDIMScheduler"}, True),
        ({"_class_name": "PNDMScheduler"}, False),
        ({"_class_name": "PNDMScheduler", "clip_sample": True}, True),
    ],
    ids=str,
)
def test_the_class_determines_whether_it_clips_by_default(tmp_path: Path, content: dict[str, Any], clips: bool) -> None:
    from ascend_parallel.diffusion.scheduler import DDIMScheduler

    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(content))
    assert DDIMScheduler.from_config(path).config.clip_sample is clips


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "sample"}, "prediction_type 'sample' .* 'epsilon', 'v_prediction'"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule .* 'linear', 'scaled_linear'"),
        ({"timestep_spacing": "random"}, "timestep_spacing 'random' .* 'leading', 'trailing'"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas .* is not supported"),
        ({"thresholding": True}, "thresholding True is not supported"),
        ({"beta_start": "small"}, "beta_start 'small' is not a number above 0"),
        ({"num_train_timesteps": 0}, "num_train_timesteps 0 is not a whole number of 1 or more"),
    ],
    ids=str,
)
def test_an_unsupported_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **changes)


@pytest.mark.parametrize("text", ["[1, 2]", "not json", '"text"'])
def test_a_file_without_settings_is_refused(tmp_path: Path, text: str) -> None:
    from ascend_parallel.diffusion.scheduler import DDIMScheduler

    path = tmp_path / "scheduler_config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="does not contain a JSON object"):
        DDIMScheduler.from_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    from ascend_parallel.diffusion.scheduler import DDIMScheduler

    with pytest.raises(FileNotFoundError, match=r"scheduler_config\.json is missing"):
        DDIMScheduler.from_config(tmp_path / "scheduler_config.json")


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_out_of_range_are_refused(tmp_path: Path, steps: int) -> None:
    with pytest.raises(ValueError, match="steps must be 1 to 1000"):
        load(tmp_path).set_timesteps(steps)


def test_a_start_after_the_last_time_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start at time step 1000, after the last one, 999"):
        load(tmp_path).set_timesteps(1000)


def test_epsilon_at_pure_noise_is_refused(tmp_path: Path) -> None:
    ours = load(
        tmp_path,
        prediction_type="epsilon",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    with pytest.raises(ValueError, match="rescale_betas_zero_snr with prediction_type 'epsilon'"):
        ours.set_timesteps(20)


def test_a_step_before_set_timesteps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="call set_timesteps before step"):
        load(tmp_path).step(np.zeros(3, np.float32), 1, np.zeros(3, np.float32))


def test_arrays_of_different_shapes_are_refused(tmp_path: Path) -> None:
    ours = load(tmp_path)
    ours.set_timesteps(20)
    with pytest.raises(ValueError, match=r"model_output is \(1,\), sample is \(3,\)"):
        ours.step(np.zeros(1, np.float32), 1, np.zeros(3, np.float32))
