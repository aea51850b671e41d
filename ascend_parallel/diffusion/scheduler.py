"""DDIM in numpy: the sampler that denoises latents step by step.

Source: Song et al. 2020, "Denoising Diffusion Implicit Models", https://arxiv.org/abs/2010.02502,
section 4, equation 12 with sigma = 0 (eta = 0). Field names and time steps are those of diffusers'
DDIMScheduler. Equation numbers below are the paper's; its alpha_t is `alphas_cumprod[t]` here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUPPORTED = {
    "beta_schedule": ("linear", "scaled_linear"),
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "trained_betas": (None,),
    "thresholding": (False,),
}
MINIMUM_INTEGERS = {"num_train_timesteps": 1, "steps_offset": 0}
NUMBERS = ("beta_start", "beta_end", "clip_sample_range")
CLIPPING_CLASSES = (None, "DDIMScheduler", "DDPMScheduler")  # clip by default


@dataclass(frozen=True)
class DDIMConfig:
    """The fields of scheduler_config.json that DDIM uses, with diffusers' defaults."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    rescale_betas_zero_snr: bool = False
    trained_betas: None = None
    thresholding: bool = False

    def __post_init__(self) -> None:
        for field, supported in SUPPORTED.items():
            value = getattr(self, field)
            if value not in supported:
                names = ", ".join(map(repr, supported))
                raise ValueError(f"{field} {value!r} is not supported; supported: {names}")
        for field, minimum in MINIMUM_INTEGERS.items():
            value = getattr(self, field)
            if type(value) is not int or value < minimum:
                raise ValueError(f"{field} {value!r} is not a whole number of {minimum} or more")
        for field in NUMBERS:
            value = getattr(self, field)
            if type(value) not in (int, float) or not value > 0:
                raise ValueError(f"{field} {value!r} is not a number above 0")


class DDIMScheduler:
    """Denoises a sample from noise at the last time step to a clean latent at time 0.

    >>> scheduler = DDIMScheduler.from_config("tiny/scheduler/scheduler_config.json")
    >>> for timestep in scheduler.set_timesteps(30):
    ...     sample = scheduler.step(denoise(sample, timestep), timestep, sample)
    """

    init_noise_sigma = 1.0  # standard deviation of the initial noise

    def __init__(self, config: DDIMConfig) -> None:
        self.config = config
        self.alphas_cumprod = _alphas_cumprod(config)
        self.timesteps: NDArray[np.int64] = np.empty(0, np.int64)

    @classmethod
    def from_config(cls, path: str | Path) -> DDIMScheduler:
        """Read a scheduler_config.json of any scheduler class of diffusers.

        Fields of other schedulers are ignored. The noise schedule, with which the model was trained, is in the common
        fields.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it is not a JSON object, or a field has a value that DDIM does not support.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: it has the scheduler's settings")
        try:
            content: dict[str, Any] = dict(json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} does not contain a JSON object: {error}") from error
        # Only two classes clip by default; clipping would ruin the pictures of the others.
        content.setdefault("clip_sample", content.get("_class_name") in CLIPPING_CLASSES)
        known = DDIMConfig.__dataclass_fields__
        try:
            return cls(DDIMConfig(**{k: v for k, v in content.items() if k in known}))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def set_timesteps(self, steps: int) -> NDArray[np.int64]:
        """Choose the time steps, and store them as `timesteps`.

        Args:
            steps: the number of calls of the model, 1 to num_train_timesteps.

        Returns:
            (steps,) int64, descending.

        Raises:
            ValueError: if there are too few or too many steps, or the configuration does not support them.

        Source: Lin et al. 2023, https://arxiv.org/abs/2305.08891, table 2.
        """
        last = self.config.num_train_timesteps
        if not 1 <= steps <= last:
            raise ValueError(f"steps must be 1 to {last} (num_train_timesteps), not {steps}")
        timesteps = self._spaced_timesteps(steps)
        if timesteps[0] >= last:
            raise ValueError(
                f"{steps} steps with steps_offset {self.config.steps_offset} start at time step "
                f"{timesteps[0]}, after the last one, {last - 1}; use fewer steps"
            )
        if self.config.prediction_type == "epsilon" and self.alphas_cumprod[timesteps[0]] == 0:
            raise ValueError(
                "rescale_betas_zero_snr with prediction_type 'epsilon' cannot start at pure noise, "
                "which contains nothing of the picture; use timestep_spacing 'leading'"
            )
        self.timesteps = timesteps
        return timesteps

    def _spaced_timesteps(self, steps: int) -> NDArray[np.int64]:
        total = self.config.num_train_timesteps
        if self.config.timestep_spacing == "linspace":
            ascending: NDArray[Any] = np.linspace(0, total - 1, steps).round()
        elif self.config.timestep_spacing == "trailing":
            ascending = np.round(np.arange(total, 0, -total / steps))[::-1] - 1
        else:
            ascending = np.arange(steps) * (total // steps) + self.config.steps_offset
        return ascending[::-1].astype(np.int64)

    def step(
        self, model_output: NDArray[Any], timestep: int | np.integer[Any], sample: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Do one denoising step.

        Args:
            model_output: the model's prediction at `timestep`, any shape.
            timestep: one of `timesteps`.
            sample: the noisy latent at `timestep`, the same shape.

        Returns:
            The latent at the previous time step, float32, the same shape.

        Raises:
            ValueError: if set_timesteps was not called, or the shapes differ.
        """
        if not self.timesteps.size:
            raise ValueError("call set_timesteps before step")
        if model_output.shape != sample.shape:
            raise ValueError(f"model_output is {model_output.shape}, sample is {sample.shape}")
        alpha_before = self._alpha_before(int(timestep))
        original, noise = self._split(model_output, sample, self.alphas_cumprod[timestep])
        before = alpha_before**0.5 * original + (1 - alpha_before) ** 0.5 * noise  # equation 12
        return np.asarray(before, np.float32)

    def preview(
        self, model_output: NDArray[Any], timestep: int | np.integer[Any], sample: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Return the clean latent as the model sees it at `timestep`; the arguments are those of :meth:`step`."""
        original, _ = self._split(model_output, sample, self.alphas_cumprod[timestep])
        return np.asarray(original, np.float32)

    def _alpha_before(self, timestep: int) -> float:
        # As in diffusers, the stride is that of "leading" for every spacing.
        before = timestep - self.config.num_train_timesteps // len(self.timesteps)
        if before >= 0:
            return float(self.alphas_cumprod[before])
        return 1.0 if self.config.set_alpha_to_one else float(self.alphas_cumprod[0])

    def _split(self, output: NDArray[Any], sample: NDArray[Any], alpha: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the clean latent (equation 9) and the noise, according to the model's prediction."""
        signal, spread = alpha**0.5, (1 - alpha) ** 0.5
        if self.config.prediction_type == "epsilon":
            original, noise = (sample - spread * output) / signal, output
        else:  # v = signal * noise - spread * original: https://arxiv.org/abs/2202.00512, appendix D
            original, noise = signal * sample - spread * output, signal * output + spread * sample
        if self.config.clip_sample:
            limit = self.config.clip_sample_range
            original = np.clip(original, -limit, limit)
        return original, noise


def _alphas_cumprod(config: DDIMConfig) -> NDArray[np.float64]:
    """Return the remaining share of the clean latent's variance, for each training time step."""
    steps = config.num_train_timesteps
    if config.beta_schedule == "scaled_linear":  # of latent diffusion
        betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, steps) ** 2
    else:
        betas = np.linspace(config.beta_start, config.beta_end, steps)
    alphas = np.cumprod(1 - betas)
    if not config.rescale_betas_zero_snr:
        return np.asarray(alphas)
    # Shift the square roots so that the last one is 0, and scale them so that the first one is unchanged:
    # https://arxiv.org/abs/2305.08891, algorithm 1.
    roots = np.sqrt(alphas)
    return np.asarray(np.square((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))))
