"""Refuses options of training that do not work together, from the configuration alone and before anything is loaded."""

import importlib.util

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import LayerRange, TrainingConfig
from afp_ray.errors import ConfigError


def check_together(
    loss: LossConfig, training: TrainingConfig, runtime: TrainingRuntime, *, num_workers: int = 1
) -> None:
    """Refuse what would fail in the first step, or what would silently do nothing.

    Args:
        loss, training: of the trial.
        runtime: of the study.
        num_workers: workers of one trial.
    Raises: ConfigError with the field to change.
    """
    if training.max_steps == 0:
        return
    if training.optimizer_in_backward and num_workers > 1:
        raise ConfigError(
            f"training.optimizer_in_backward updates weights before the gradients of {num_workers} workers are summed",
            where="training.optimizer_in_backward",
            allowed="true with runtime.workers_per_trial 1",
            fix="set training.optimizer_in_backward: false, or runtime.workers_per_trial: 1",
        )
    if runtime.sharding == "full":
        _check_sharding(loss, training, num_workers)
    if training.lora is not None:
        _check_adapters(loss, training)
    if training.trainable != "all":
        _check_trainable(loss, training, runtime)


def check_lengths(longest_plain: int, training: TrainingConfig, runtime: TrainingRuntime) -> None:
    """Refuse shared weights for texts that may not stand in one forward: workers would gather weights unequally often.

    Args:
        longest_plain: tokens up to which the model treats all texts alike.
        training, runtime: of the trial.
    Raises: ConfigError with the field to change.
    """
    if training.max_steps > 0 and runtime.sharding == "full" and training.max_length > longest_plain:
        shorter = longest_plain >= 2
        raise ConfigError(
            f"the model treats texts beyond {longest_plain} tokens in another way, and training.max_length "
            f"{training.max_length} lets in both, which runtime.sharding full cannot run side by side",
            where="training.max_length" if shorter else "runtime.sharding",
            allowed=f"2 to {longest_plain} with runtime.sharding full" if shorter else "none, for this model",
            fix=(f"set training.max_length: {longest_plain}, or " if shorter else "set ") + "runtime.sharding: none",
        )


def _check_sharding(loss: LossConfig, training: TrainingConfig, num_workers: int) -> None:
    if num_workers == 1:
        raise ConfigError(
            "runtime.sharding full shares weights out among workers, and there is 1",
            where="runtime.sharding",
            allowed="none with one worker; none or full with several",
            fix="set runtime.sharding: none, or runtime.workers_per_trial: 2 or more",
        )
    if training.lora is not None:
        raise ConfigError(
            "runtime.sharding full does not know the adapters of training.lora",
            where="runtime.sharding",
            allowed="full with training.lora null",
            fix="set runtime.sharding: none, since frozen weights need neither gradients nor optimizer state",
        )
    if loss.contrastive_weight > 0 and loss.negatives == "queue":
        raise ConfigError(
            "runtime.sharding full does not know the slow copy of loss.negatives queue",
            where="loss.negatives",
            allowed="batch, global",
            fix="set loss.negatives: global, or runtime.sharding: none",
        )
    if loss.contrastive_weight > 0 and loss.layer == 0:
        raise ConfigError(
            "runtime.sharding full sums gradients as blocks end, and at loss.layer 0 no block runs",
            where="loss.layer",
            allowed="1 or above",
            fix="set loss.layer: 1, or runtime.sharding: none",
        )


def _check_adapters(loss: LossConfig, training: TrainingConfig) -> None:
    if loss.contrastive_weight > 0 and loss.layer == 0:
        raise ConfigError(
            "training.lora puts adapters into the blocks, and below loss.layer 0 there is none to train",
            where="loss.layer",
            allowed="1 or above",
            fix="set loss.layer: 1, or training.lora: null",
        )
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "training.lora needs the library peft, which is not installed",
            where="training.lora",
            fix="pip install 'afp-ray[lora]', or set training.lora: null",
        )


def _check_trainable(loss: LossConfig, training: TrainingConfig, runtime: TrainingRuntime) -> None:
    if training.lora is not None:
        raise ConfigError(
            "training.lora freezes every weight, and training.trainable trains some",
            where="training.trainable",
            allowed="all with training.lora",
            fix="set training.trainable: all, or training.lora: null",
        )
    if runtime.sharding == "full":
        raise ConfigError(
            "runtime.sharding full shares gradients of all weights out, and training.trainable freezes some",
            where="runtime.sharding",
            allowed="full with training.trainable all",
            fix="set runtime.sharding: none, since frozen weights need neither gradients nor optimizer state",
        )
    first = training.trainable.layers[0] if isinstance(training.trainable, LayerRange) else 1
    if loss.contrastive_weight > 0 and isinstance(loss.layer, int) and loss.layer < first:
        raise ConfigError(
            f"below loss.layer {loss.layer} nothing is trained: training.trainable begins with block {first}",
            where="loss.layer",
            allowed=f"{first} or above",
            fix=f"set loss.layer: {first}, or train lower blocks",
        )
