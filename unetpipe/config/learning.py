"""Samples and training."""

import math
from typing import Annotated, Literal

from pydantic import Field

from unetpipe.config.types import Fraction, Loss, Model, Name, NotNegative, Positive, PositiveFloat, Tile

BATCHES_AHEAD = 2
"""Batches that are read while one is learnt from."""


def passes_before_focus(samples: int, batch: int) -> int:
    """Passes over ``samples`` in batches of ``batch`` that are drawn before the losses can tell their order."""
    return 1 + math.ceil((BATCHES_AHEAD + 1) * batch / samples)


class Augment(Model):
    """Training samples: deformed, turned, shifted and re-lit cut-outs, with a weight per voxel."""

    samples: Positive = Field(400, description="number of samples to draw; training passes over them again and again")
    tile: Tile = Field(
        (316, 316), description="input of the network in training: (y, x) voxels, or (z, y, x) of a 3D network"
    )
    voxel_size_nm: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None,
        description="(y, x) in nm: samples of all training volumes are resampled to it, and the network is for volumes "
        "with such voxels, 10 % more or less; sections remain as they are. Where left out, samples have the voxels of "
        "their volumes, none of which may differ from the first by more than 10 %",
    )
    elastic_grid: Annotated[int, Field(ge=2)] = Field(
        3, description="control points of the elastic deformation along y and x; the paper has 3"
    )
    elastic_sigma: NotNegative = Field(
        10.0, description="standard deviation of their displacements in voxels; the paper has 10"
    )
    rotation: NotNegative = Field(180.0, description="largest rotation in degrees, either way")
    shift: NotNegative = Field(10.0, description="largest shift in voxels along y and x, either way")
    scale: Fraction = Field(0.1, description="largest change of scale, as a share of 1, either way")
    brightness: NotNegative = Field(
        0.3,
        description="standard deviation of an added grey value, in units of a section's standard deviation",
    )
    contrast: NotNegative = Field(0.2, description="standard deviation of the logarithm of a factor on grey values")
    gamma: NotNegative = Field(0.2, description="standard deviation of the logarithm of the exponent on grey values")
    noise: NotNegative = Field(
        0.1,
        description="largest standard deviation of added noise, in units of a section's standard deviation",
    )
    blur: NotNegative = Field(0.5, description="largest sigma of a Gaussian blur in voxels")
    border_class: Name | None = Field(
        None,
        description="the class that separates cells: its voxels between near cells weigh more; none: no border term",
    )
    border_weight: NotNegative = Field(10.0, description="w0 of the border weight; the paper has 10")
    border_sigma: PositiveFloat = Field(5.0, description="sigma of the border weight in voxels; the paper has 5")
    class_balance: Fraction | Literal[1] = Field(
        0.5,
        description="w_c is the class frequency to the power of minus this, 1 on average; 0 weighs all voxels alike",
    )
    class_weights: dict[Name, PositiveFloat] | None = Field(
        None,
        description="factors on w_c, 1 for a class that is left out; w_c remains 1 on average. With `class_balance` 0 "
        "they alone tell how much a voxel of each class weighs beside others",
    )


class Train(Model):
    """Training. Everything is counted in steps, so that a run can be repeated bit for bit."""

    steps: Positive = Field(1500, description="steps of the optimiser")
    batch: Positive = Field(4, description="samples per step; the paper has 1, large")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="the paper has sgd")
    learning_rate: PositiveFloat = Field(2e-3, description="at its highest")
    momentum: Fraction = Field(0.9, description="of sgd, and the first beta of adamw; the paper has 0.99")
    weight_decay: NotNegative = Field(1e-4, description="decoupled, of adamw; of sgd as an L2 term")
    schedule: Literal["one_cycle", "constant"] = Field(
        "one_cycle", description="learning rate over the steps; the paper's is constant"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="of the convolutions; weights and loss are always fp32. auto: bf16 where the processor has "
        "instructions for it; elsewhere bf16 takes several times as long as fp32",
    )
    loss: Loss = Field(
        "cross_entropy",
        description="what is made small: the paper's cross-entropy, a soft Dice over the classes, or their sum, all "
        "with the weights of the voxels. Dice is a mean over the classes, so rare ones count as much as frequent ones",
    )
    focus: Fraction = Field(
        0.0,
        description="share of the samples that are drawn in proportion to their loss, as it was in an earlier pass; "
        "the others are drawn alike. 0: every pass takes every sample once",
    )
    average: Annotated[int, Field(ge=0)] = Field(
        0,
        description="steps over which weights are averaged: an exponential moving average, of which each step "
        "keeps 1 - 1/average, is what is validated and kept; 0: the weights themselves",
    )
    validate_every: Positive = Field(100, description="steps between validations")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="validations without a better mean IoU before training ends; 0: never"
    )
    checkpoint_every: Positive = Field(100, description="steps between the states from which a killed run goes on")
    threads: Positive = Field(
        2,
        description="CPU threads; another number can give another last bit, so it is a setting and not --cores",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to train; auto: on a GPU where PyTorch finds one. Another device, other last bits"
    )
    processes: Positive = Field(
        1,
        description="processes that share each batch; each has a GPU of its own, or `threads` CPU threads. They "
        "learn what one process would learn from whole batches, but for rounding",
    )
    tensorboard: bool = Field(
        False,
        description="write losses, learning rate, IoU and pictures of validation tiles to `model/tensorboard`, for "
        "`tensorboard --logdir results`; needs `pip install 'unetpipe[watch]'`. Another value than "
        "before makes snakemake train again, as that of any setting of `train`",
    )
    init: str | None = Field(None, description="a checkpoint.safetensors to start from: fine-tuning")
