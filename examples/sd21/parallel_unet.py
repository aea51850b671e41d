"""A U-Net on a runner, as a replacement for diffusers' UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from ascend_parallel import ParallelPredictUtils, ShapeError, UsageError
from ascend_parallel.diffusion.specs import find_unet_inputs, pick_output, timestep_shape, to_dtype

#: The further arguments of UNet2DConditionModel.forward, in order: an exported U-Net has no such inputs.
UNSUPPORTED = (
    "class_labels",
    "timestep_cond",
    "attention_mask",
    "cross_attention_kwargs",
    "added_cond_kwargs",
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
    "encoder_attention_mask",
)
#: The settings of the U-Net that the pipeline needs.
NEEDED_SETTINGS = ("sample_size", "in_channels")


class ParallelUNet(ModelMixin, ConfigMixin):
    """A U-Net on a runner that replaces a UNet2DConditionModel.

    It has no parameters: ``pipeline.to("cuda")`` moves the other models, and does not move this one from its workers.
    """

    config_name = "config.json"

    def __init__(self, runner: ParallelPredictUtils, settings: Mapping[str, Any], model: str | None = None) -> None:
        """Use a runner that is built.

        Args:
            runner: a runner with the U-Net; the caller closes it after the last picture.
            settings: the U-Net's config.json, from which the pipeline reads sizes.
            model: the name of the U-Net in the runner, if that has several models.

        Raises:
            UsageError: if the runner's model is not a U-Net of Stable Diffusion.
        """
        super().__init__()
        missing = [key for key in NEEDED_SETTINGS if key not in settings]
        if missing:
            raise UsageError(f"the U-Net's settings have no {missing[0]}; expected its config.json")
        self.register_to_config(**{"time_cond_proj_dim": None, **settings})
        self._runner = runner
        self._model = model
        self._names = find_unet_inputs((runner.models[model] if model else runner).inputs or [])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's latents."""
        dtype: torch.dtype = torch.from_numpy(np.empty(0, self._names.sample.dtype)).dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the inputs and outputs: the workers read them from this machine's memory."""
        return torch.device("cpu")

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor,
        *others: Any,
        return_dict: bool = True,
        **named: Any,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Predict like UNet2DConditionModel, with the rows divided between all devices.

        Args:
            sample: noisy latents, (N, channels, height, width); latents in the CPU's memory are not copied on their way
                to the runner.
            timestep: one time step for all rows.
            encoder_hidden_states: (N, tokens, width).
            *others: the further arguments of UNet2DConditionModel; all must be None.
            **named: the same, as keyword arguments.
            return_dict: whether to return the prediction as an object or in a tuple.

        Returns:
            The prediction, with the sample's shape, dtype and device.

        Raises:
            UsageError: if an argument is given that the exported U-Net does not support.
            WorkerError: if a device failed.
        """
        _refuse({**dict(zip(UNSUPPORTED, others, strict=False)), **named})
        feeds = {
            self._names.sample.name: to_dtype(_to_numpy(sample), self._names.sample),
            self._names.timestep.name: self._to_timestep(timestep, len(sample)),
            self._names.text.name: to_dtype(_to_numpy(encoder_hidden_states), self._names.text),
        }
        predicted = pick_output(self._runner.predict(feeds, model=self._model), "out_sample", 4)
        result = torch.from_numpy(predicted).to(device=sample.device, dtype=sample.dtype)
        return UNet2DConditionOutput(sample=result) if return_dict else (result,)

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Refuse to save: there are no weights here, and an empty file would look like a U-Net."""
        raise UsageError("a ParallelUNet has no weights to save: they are in the exported model, and in its checkpoint")

    def _to_timestep(self, timestep: torch.Tensor | float, rows: int) -> np.ndarray[Any, Any]:
        steps = np.unique(np.asarray(timestep.cpu() if isinstance(timestep, torch.Tensor) else timestep))
        spec = self._names.timestep
        if steps.size != 1:
            raise ShapeError(f"timestep has {steps.size} different time steps; the exported U-Net takes one")
        if np.dtype(spec.dtype).kind in "iu" and steps[0] != int(steps[0]):
            raise UsageError(
                f"the scheduler uses time step {steps[0]:g}, but the exported U-Net takes whole ones ({spec.dtype}); "
                'choose a scheduler with whole time steps, such as timestep_spacing="leading"'
            )
        return np.full(timestep_shape(self._names, rows), steps[0], spec.dtype)


def _refuse(arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for arguments that an exported U-Net would ignore; an empty dict has no effect."""
    for name, value in arguments.items():
        if value is not None and value != {}:
            raise UsageError(
                f"{name} was given, but the exported U-Net has no such input; use diffusers' own U-Net, or leave out "
                "the feature that needs it (ControlNet, IP-Adapter, LoRA scale, class labels)"
            )


def _to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a view of a tensor in the CPU's memory, or a copy of a tensor elsewhere."""
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array
