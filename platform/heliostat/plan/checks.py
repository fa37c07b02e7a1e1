"""What a job file says against itself: keys a model does not use, sums that do not work."""

from __future__ import annotations

from collections.abc import Iterator

from heliostat.errors import Problem
from heliostat.plan.stream import stream_problems
from heliostat.spec.data import CustomFeature, FractionSplit, TimeSplit
from heliostat.spec.load import Job
from heliostat.spec.metrics import METRICS, metrics_of
from heliostat.spec.model import (
    GptModel,
    LinearModel,
    MlpModel,
    TabularTransformerModel,
    XGBoostModel,
)


def consistency_problems(job: Job) -> list[Problem]:
    """Every contradiction in the job itself, before its data is looked at."""
    checks = (
        _task,
        _metrics,
        _train_keys,
        _linear_keys,
        _heads,
        _language,
        _degrees,
        _validation,
        _split,
        _limits,
        _tune,
        _code,
        stream_problems,
    )
    return [problem for check in checks for problem in check(job)]


def _task(job: Job) -> Iterator[Problem]:
    spec = job.spec
    if spec.data.task == "ranking":
        return  # refused elsewhere as not available yet
    if spec.data.task not in spec.model.tasks:
        what = f"a model of kind `{spec.model.kind}` does not do task `{spec.data.task}`"
        kinds = "gpt" if spec.data.task == "language" else "mlp, xgboost, linear, ..."
        yield job.problem("data.task", what, f"take a model that does: {kinds}")
        return
    if spec.data.positive is not None and spec.data.task != "binary":
        yield job.problem("data.positive", f"task `{spec.data.task}` has no positive class")
    if spec.data.class_weights is not None and spec.data.task in ("regression", "language"):
        yield job.problem("data.class_weights", f"task `{spec.data.task}` has no classes")
    weighted = spec.data.weight is not None or spec.data.class_weights is not None
    if weighted and spec.model.kind == "knn":
        key = "weight" if spec.data.weight is not None else "class_weights"
        yield job.problem(
            f"data.{key}", "a model of kind `knn` counts every row alike", "take another model"
        )
    if spec.data.split.method == "stratified" and spec.data.task in ("regression", "language"):
        what = f"stratified needs classes, and task `{spec.data.task}` has none"
        yield job.problem("data.split.method", what, "write `random`")
    weighs = isinstance(spec.model, XGBoostModel) and spec.model.scale_pos_weight != 1
    if weighs and spec.data.task != "binary":
        yield job.problem(
            "model.scale_pos_weight", f"task `{spec.data.task}` has no positive class"
        )
    losses = {
        "regression": ("auto", "mse", "mae", "huber", "quantile", "poisson"),
        "binary": ("auto", "binary_cross_entropy", "focal"),
        "multiclass": ("auto", "cross_entropy", "focal"),
        "language": ("auto", "cross_entropy"),
    }[spec.data.task]
    loss = spec.train.loss
    if loss.name not in losses:
        yield job.problem(
            "train.loss",
            f"`{loss.name}` is no loss for task `{spec.data.task}`",
            f"one of: {', '.join(losses)}",
        )
    used = {"huber": "delta", "quantile": "quantile", "focal": "gamma"}.get(loss.name)
    smoothed = {"label_smoothing"} if spec.data.task != "regression" else set()
    for key in sorted(loss.model_fields_set - {"name", used} - smoothed):
        yield job.problem(f"train.loss.{key}", f"loss `{loss.name}` does not use it")
    schedule = spec.train.schedule
    if schedule.name == "plateau":
        if spec.data.num_folds is not None:
            what = "waits for validation rows, and the last training of folds has none"
            yield job.problem("train.schedule.name", what, "take another")
    else:
        for key in sorted({"patience", "factor"} & schedule.model_fields_set):
            yield job.problem(f"train.schedule.{key}", f"`{schedule.name}` does not use it")


def _metrics(job: Job) -> Iterator[Problem]:
    spec = job.spec
    if spec.data.task == "ranking":
        return
    possible = metrics_of(spec.data.task)
    wanted = [("metrics", name) for name in spec.metrics]
    if spec.objective is not None:
        wanted.append(("objective", spec.objective.metric))
    for key, name in wanted:
        if name not in possible:
            what = (
                f"means nothing for task `{spec.data.task}`" if name in METRICS else "is not known"
            )
            yield job.problem(key, f"metric `{name}` {what}", f"one of: {', '.join(possible)}")
    objective = spec.objective
    if objective is not None and objective.metric in METRICS:
        usual = METRICS[objective.metric].goal
        if objective.goal not in (None, usual):
            better = "lower" if usual == "min" else "higher"
            what = f"`{objective.goal}`: of `{objective.metric}`, {better} is better"
            yield job.problem("objective.goal", what, f"write `{usual}`, or leave it out")


def _train_keys(job: Job) -> Iterator[Problem]:
    model = job.spec.model
    for key in sorted(job.spec.train.model_fields_set - model.train_keys):
        used = ", ".join(sorted(model.train_keys)) or "no key of `train`"
        yield job.problem(
            f"train.{key}", f"a model of kind `{model.kind}` does not use it", f"it uses {used}"
        )
    optimizer = job.spec.train.optimizer
    if optimizer.name == "adamw" and "momentum" in optimizer.model_fields_set:
        yield job.problem("train.optimizer.momentum", "adamw does not use it")
    if model.family == "classic" and job.spec.scale.num_workers > 1:
        yield job.problem(
            "scale.workers",
            f"{job.spec.scale.num_workers}: `{model.kind}` is fitted by scikit-learn on one worker",
            "write 1",
        )


def _tensor(job: Job, degree: int) -> Iterator[Problem]:
    """Why matrices cannot be divided by the degree."""
    model, key = job.spec.model, "scale.parallel.tensor"
    sizes: dict[str, int] = {}
    if isinstance(model, TabularTransformerModel):
        sizes = {"nhead": model.nhead, "dim_feedforward": model.dim_feedforward}
    elif isinstance(model, GptModel):
        sizes = {
            "num_attention_heads": model.num_attention_heads,
            "num_key_value_heads": model.num_shared_heads,
            "intermediate_size": model.feed_forward_size,
        }
        if model.qk_norm:
            yield job.problem(key, "peers norm different heads by the same `qk_norm`")
    elif isinstance(model, MlpModel):
        sizes = {f"hidden[{i}]": size for i, size in enumerate(model.hidden)}
        if model.norm == "batch":
            what = "peers see the same rows, which batch normalisation would count twice"
            yield job.problem(key, what, "write `norm: layer`")
    else:
        what = f"a model of kind `{model.kind}` does not say how its matrices may be cut"
        yield job.problem(key, what, "write `shard`")
    for name, size in sizes.items():
        if size % degree:
            yield job.problem(key, f"{degree} does not divide model.{name} = {size}")


def _pipeline(job: Job, degree: int, num_replicas: int) -> Iterator[Problem]:
    """What cannot be cut along its depth with the same result, or not so often."""
    model, key = job.spec.model, "scale.parallel.pipeline"
    layers = {}
    if isinstance(model, MlpModel):
        layers = {"hidden": len(model.hidden)}
        if model.norm == "batch":
            what = "stages see micro-batches, and batch normalisation needs the whole batch"
            yield job.problem(key, what, "write `norm: layer`")
    elif isinstance(model, TabularTransformerModel):
        layers = {"num_layers": model.num_layers}
    elif isinstance(model, GptModel):
        layers = {"num_hidden_layers": model.num_hidden_layers}
        if model.tie_word_embeddings:
            what = "the first and the last stage would each change the embeddings they share"
            yield job.problem(key, what, "write `tie_word_embeddings: false`")
    for name, count in layers.items():
        if count < degree:
            yield job.problem(key, f"{degree} stages need as many layers; model.{name} has {count}")
    rows = job.spec.train.batch_size // max(1, num_replicas)
    micro = job.spec.scale.micro_batch_size
    fills = rows if micro == "auto" else -(-rows // micro)
    if fills < degree:
        what = f"{fills} micro-batches of a rank's {rows} rows do not fill {degree} stages"
        yield job.problem(key, what, "lower `scale.micro_batch_size`, or raise `train.batch_size`")


def _language(job: Job) -> Iterator[Problem]:
    """What texts that are packed into sequences cannot be combined with."""
    data = job.spec.data
    if data.task != "language":
        return
    if data.weight is not None:
        yield job.problem("data.weight", "every token of a text counts alike", "leave it out")
    if data.ingest == "stream":
        what = "packs rows by themselves, and sequences are packed from all documents"
        yield job.problem("data.ingest", what, "write `ingest: prepared`")
    if data.num_folds is not None:
        yield job.problem("data.split.folds", "task `language` has one validation side")


def _heads(job: Job) -> Iterator[Problem]:
    model = job.spec.model
    if isinstance(model, GptModel):
        if model.head_dim is None and model.hidden_size % model.num_attention_heads:
            what = f"{model.num_attention_heads} heads do not divide hidden_size"
            yield job.problem("model.num_attention_heads", f"{what} = {model.hidden_size}")
        elif model.width_of_head % 2:
            what = f"heads of width {model.width_of_head} have no two halves to turn"
            yield job.problem("model.num_attention_heads", what, "take an even width")
        if model.qk_norm and model.attention_bias:
            yield job.problem("model.attention_bias", "no family has it together with `qk_norm`")
        if model.num_attention_heads % model.num_shared_heads:
            what = f"{model.num_shared_heads} does not divide num_attention_heads"
            yield job.problem("model.num_key_value_heads", f"{what} = {model.num_attention_heads}")
    if isinstance(model, TabularTransformerModel) and model.d_model % model.nhead:
        yield job.problem(
            "model.nhead", f"{model.nhead} heads do not divide d_model = {model.d_model}"
        )


LINEAR_KEYS = {
    ("regression", "none"): {"fit_intercept"},
    ("regression", "l2"): {"alpha", "fit_intercept", "tol", "max_iter"},
    ("regression", "l1"): {"alpha", "fit_intercept", "tol", "max_iter"},
    ("regression", "elasticnet"): {"alpha", "l1_ratio", "fit_intercept", "tol", "max_iter"},
    ("classes", "none"): {"fit_intercept", "tol", "max_iter"},
    ("classes", "l2"): {"C", "fit_intercept", "tol", "max_iter"},
    ("classes", "l1"): {"C", "fit_intercept", "tol", "max_iter"},
    ("classes", "elasticnet"): {"C", "l1_ratio", "fit_intercept", "tol", "max_iter"},
}


def _linear_keys(job: Job) -> Iterator[Problem]:
    model = job.spec.model
    if not isinstance(model, LinearModel):
        return
    task = "regression" if job.spec.data.task == "regression" else "classes"
    used = LINEAR_KEYS[task, model.penalty] | {"kind", "penalty"}
    for key in sorted(model.model_fields_set - used):
        yield job.problem(
            f"model.{key}",
            f"penalty `{model.penalty}` of a linear model for {task} does not use it",
            f"it uses {', '.join(sorted(used - {'kind', 'penalty'}))}",
        )


def _degrees(job: Job) -> Iterator[Problem]:
    scale = job.spec.scale
    degrees = scale.parallel
    product = degrees.product
    workers = scale.num_workers
    if workers % product:
        fitting = ", ".join(str(k) for k in range(1, workers + 1) if workers % k == 0)
        yield job.problem(
            "scale.parallel",
            f"shard {degrees.shard} x tensor {degrees.tensor} x pipeline {degrees.pipeline} = "
            f"{product} does not divide workers = {workers}",
            f"products that do: {fitting}",
        )
    elif scale.min_workers % product:
        what = f"{product} ranks hold one model together, and do not divide min = "
        yield job.problem("scale.workers.min", f"{what}{scale.min_workers}")
    if product > 1 and job.spec.model.family != "network":
        what = f"a model of kind `{job.spec.model.kind}` cannot be cut"
        yield job.problem("scale.parallel", what, "take data parallelism alone")
    else:
        if degrees.tensor > 1:
            yield from _tensor(job, degrees.tensor)
        if degrees.pipeline > 1:
            yield from _pipeline(job, degrees.pipeline, workers // product)
    if degrees.peers > 1 and job.spec.data.ingest == "stream":
        what = "peers see the same rows, and a stream gives each row to one rank"
        yield job.problem("scale.parallel", what, "write `ingest: prepared`")
    if scale.micro_batch_size != "auto" and job.spec.model.family != "network":
        what = f"a model of kind `{job.spec.model.kind}` has no batches"
        yield job.problem("scale.micro_batch_size", what, "leave it out")
    if scale.micro_batch_size != "auto" and getattr(job.spec.model, "norm", "") == "batch":
        what = "batch normalisation needs the whole batch at once"
        yield job.problem("scale.micro_batch_size", what, "write `norm: layer`")
    if job.spec.model.family == "network" and job.spec.train.batch_size < workers:
        yield job.problem(
            "train.batch_size",
            f"{job.spec.train.batch_size} rows leave some of {workers} workers without any",
            f"write at least {workers}",
        )


def _validation(job: Job) -> Iterator[Problem]:
    split = job.spec.data.split
    if job.spec.data.num_folds is not None:
        if "validation" in split.model_fields_set:
            yield job.problem("data.split.validation", "folds take its place", "leave it out")
        return
    if not isinstance(split, (FractionSplit, TimeSplit)) or split.validation != 0:
        return
    if job.spec.train.early_stopping is not None:
        yield job.problem(
            "train.early_stopping", "needs validation rows, and `data.split` keeps none"
        )
    if job.spec.train.schedule.name == "plateau":
        yield job.problem(
            "train.schedule.name", "`plateau` needs validation rows, and `data.split` keeps none"
        )
    if job.spec.tune is not None:
        yield job.problem("tune", "compares trials on validation rows, and `data.split` keeps none")


def _tune(job: Job) -> Iterator[Problem]:
    tune = job.spec.tune
    if tune is not None and tune.fuse and tune.deterministic:
        what = (
            "a fused trial equals itself alone within rounding, not bit for bit, and so might not"
        )
        yield job.problem(
            "tune.fuse", f"{what} lead to the same decisions", "leave one of them out"
        )


def _split(job: Job) -> Iterator[Problem]:
    split = job.spec.data.split
    if isinstance(split, TimeSplit):
        given = [value for value in (split.validation, split.test) if isinstance(value, float)]
        if sum(given) >= 1:
            yield job.problem("data.split", "validation + test leave no row to train on")


def _limits(job: Job) -> Iterator[Problem]:
    if job.spec.limits.gpu_hours is not None and job.spec.scale.resources.gpu == 0:
        what = "limits GPUs, and `scale.resources.gpu` is 0"
        yield job.problem("limits.gpu_hours", what, "write `hours`")


def _code(job: Job) -> Iterator[Problem]:
    if job.spec.code is not None:
        return
    needing = ["model.class"] if job.spec.model.kind == "custom" else []
    for name, feature in (job.spec.data.features or {}).items():
        if isinstance(feature, CustomFeature):
            needing.append(f"data.features.{name}.class")
    for key in needing:
        yield job.problem(key, "needs `code: {path: ...}`, the folder of its package")
