"""What users of scikit-learn, XGBoost, torch and Keras call our keys, and where a key stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from heliostat.spec.model import Model, ModelSpec

NAMES: dict[tuple[str, ...], str] = {  # a key: what it is called elsewhere
    ("model.learning_rate", "train.optimizer.learning_rate"): "lr eta learning_rate step_size",
    ("model.n_estimators", "train.rounds", "train.epochs"): (
        "n_estimators num_boost_round num_rounds n_rounds nrounds num_iterations iterations "
        "max_iter boosting_rounds rounds"
    ),
    ("train.epochs", "train.rounds"): "epochs num_epochs n_epochs max_epochs num_train_epochs",
    ("train.steps",): "steps num_steps max_steps total_steps",
    ("train.batch_size",): (
        "batch_size batch batchsize bs train_batch_size mini_batch_size per_device_train_batch_size"
    ),
    ("train.optimizer",): "optimizer optim optimiser",
    ("train.optimizer.weight_decay",): "weight_decay wd",
    ("train.optimizer.momentum",): "momentum",
    ("train.schedule",): "schedule scheduler lr_scheduler lr_schedule learning_rate_schedule",
    ("train.schedule.warmup_steps",): "warmup warmup_steps num_warmup_steps",
    ("train.early_stopping.patience",): (
        "early_stopping_rounds patience early_stop early_stopping n_iter_no_change"
    ),
    ("train.loss",): "loss loss_function loss_fn criterion",
    ("train.clip_norm",): (
        "clip_norm max_grad_norm grad_clip gradient_clip_val gradient_clipping clipnorm "
        "clip_grad_norm"
    ),
    ("train.precision",): "precision fp16 bf16 amp mixed_precision",
    ("scale.micro_batch_size",): (
        "micro_batch_size gradient_accumulation_steps grad_accum accumulate_grad_batches"
    ),
    ("scale.workers",): "workers num_workers n_workers world_size",
    ("scale.resources.cpu",): "n_jobs nthread num_threads n_threads cpu cpus num_cpus",
    ("scale.resources.gpu",): "gpu gpus num_gpus",
    ("scale.resources.memory",): "memory",
    ("limits.hours",): "hours time_limit max_time timeout",
    ("seed",): "seed random_state random_seed manual_seed",
    ("metrics",): "metrics metric eval_metric scoring",
    ("data.source",): "source path data_path file files",
    ("data.target",): "target label y label_column target_column",
    ("data.features",): "features inputs columns feature_columns",
    ("data.task",): "task problem_type",
    ("data.weight",): "weight sample_weight weight_column",
    ("data.class_weights",): "class_weights class_weight",
    ("data.split",): "split train_test_split",
    ("data.split.validation",): (
        "validation val val_size val_split validation_size validation_split validation_fraction"
    ),
    ("data.split.test",): "test test_size test_split test_fraction",
    ("data.split.folds",): "folds cv n_splits num_folds kfold",
    ("model.hidden",): "hidden hidden_layer_sizes hidden_sizes hidden_units layers",
    ("model.dropout",): "dropout dropout_rate",
    ("model.reg_lambda",): "lambda l2 reg_lambda",
    ("model.reg_alpha",): "l1 reg_alpha",
    ("tune.trials",): "trials n_trials num_trials max_trials num_samples n_iter",
    ("tune.search",): "search sampler search_alg",
    ("tune.scheduler",): "pruner",
    ("tune.space",): "space search_space param_space param_grid hyperparameters",
}


def key_meant(name: str, value: Mapping[str, Any]) -> str | None:
    """The dotted key that somebody means who writes `name` where it is not known, in the job
    `value`; None if none comes to mind.
    """
    word = name.lower().replace("-", "_")
    for keys, names in NAMES.items():
        if word in names.split():
            fitting = [key for key in keys if _fits(key, value)]
            return fitting[0] if fitting else None
    return None


def _fits(key: str, value: Mapping[str, Any]) -> bool:
    """Whether the job's kind of model uses a key."""
    section, _, rest = key.partition(".")
    model = value.get("model")
    kind = model.get("kind") if isinstance(model, Mapping) else None
    known = next(
        (c for c in _models() if kind in get_args(c.model_fields["kind"].annotation)), None
    )
    if known is None or section not in ("model", "train"):
        return section != "model"
    used = known.model_fields.keys() if section == "model" else known.train_keys
    return rest.partition(".")[0] in used


def _models() -> Iterator[type[ModelSpec]]:
    for variant in get_args(get_args(Model)[0]):
        yield get_args(variant)[0] if get_args(variant) else variant
