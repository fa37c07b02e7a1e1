"""`model`: one class a kind; its fields are the underlying library's own parameter names.

Each class also says what the rest of the job may set for it: the unit its training is
counted in, the keys of `train` it reads, and the tasks it can do.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from heliostat.spec.base import Spec

ALL_TASKS = ("regression", "binary", "multiclass")
NETWORK_KEYS = frozenset(
    "epochs steps validate_every batch_size loss optimizer schedule early_stopping precision "
    "clip_norm compile".split()
)
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]


class ModelSpec(Spec):
    """What every kind declares about itself."""

    family: ClassVar[str]  # "network", "boosted" or "classic": which trainer runs it
    tasks: ClassVar[tuple[str, ...]] = ALL_TASKS
    train_keys: ClassVar[frozenset[str]] = frozenset()
    units: ClassVar[tuple[str, ...]] = ()  # keys of `train` that give the length
    default_length: ClassVar[int] = 1
    encoding: ClassVar[Literal["codes", "one_hot"]] = "codes"
    keeps_missing: ClassVar[bool] = False  # the model itself handles NaN
    wants_scaling: ClassVar[bool] = False


class LinearModel(ModelSpec):
    """Linear regression, ridge, lasso, elastic net; for classes: logistic regression.

    `alpha` is the penalty's strength of the regressions, `C` the inverse one of logistic
    regression (scikit-learn's names).
    """

    family: ClassVar[str] = "classic"
    encoding: ClassVar[Literal["codes", "one_hot"]] = "one_hot"
    wants_scaling: ClassVar[bool] = True
    kind: Literal["linear"]
    penalty: Literal["none", "l1", "l2", "elasticnet"] = "l2"
    alpha: Positive = 1.0
    C: Positive = 1.0
    l1_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    fit_intercept: bool = True
    max_iter: Count = 1000
    tol: Positive = 1e-4


class TreeModel(ModelSpec):
    """One decision tree."""

    family: ClassVar[str] = "classic"
    keeps_missing: ClassVar[bool] = True
    kind: Literal["tree"]
    max_depth: Count | None = None
    min_samples_split: Annotated[int, Field(ge=2)] = 2
    min_samples_leaf: Count = 1
    max_features: Share | Literal["sqrt", "log2"] | None = None
    ccp_alpha: NotNegative = 0.0


class ForestModel(ModelSpec):
    """A random forest."""

    family: ClassVar[str] = "classic"
    keeps_missing: ClassVar[bool] = True
    kind: Literal["forest"]
    n_estimators: Count = 100
    max_depth: Count | None = None
    min_samples_split: Annotated[int, Field(ge=2)] = 2
    min_samples_leaf: Count = 1
    max_features: Share | Literal["sqrt", "log2"] | None = "sqrt"
    ccp_alpha: NotNegative = 0.0
    bootstrap: bool = True


class NeighborsModel(ModelSpec):
    """k nearest neighbours."""

    family: ClassVar[str] = "classic"
    encoding: ClassVar[Literal["codes", "one_hot"]] = "one_hot"
    wants_scaling: ClassVar[bool] = True
    kind: Literal["knn"]
    n_neighbors: Count = 5
    weights: Literal["uniform", "distance"] = "uniform"
    p: Positive = 2.0


class SupportVectorModel(ModelSpec):
    """A support vector machine; class probabilities by Platt's scaling."""

    family: ClassVar[str] = "classic"
    encoding: ClassVar[Literal["codes", "one_hot"]] = "one_hot"
    wants_scaling: ClassVar[bool] = True
    kind: Literal["svm"]
    C: Positive = 1.0
    kernel: Literal["linear", "poly", "rbf", "sigmoid"] = "rbf"
    degree: Count = 3
    gamma: Positive | Literal["scale", "auto"] = "scale"
    epsilon: NotNegative = 0.1


class XGBoostModel(ModelSpec):
    """Gradient-boosted trees (histogram method)."""

    family: ClassVar[str] = "boosted"
    units: ClassVar[tuple[str, ...]] = ("rounds",)
    default_length: ClassVar[int] = 100
    train_keys: ClassVar[frozenset[str]] = frozenset({"rounds", "validate_every", "early_stopping"})
    keeps_missing: ClassVar[bool] = True
    kind: Literal["xgboost"]
    max_depth: Annotated[int, Field(ge=0)] = 6
    learning_rate: Positive = 0.3
    min_child_weight: NotNegative = 1.0
    gamma: NotNegative = 0.0
    reg_alpha: NotNegative = 0.0
    reg_lambda: NotNegative = 1.0
    subsample: Share = 1.0
    colsample_bytree: Share = 1.0
    colsample_bylevel: Share = 1.0
    colsample_bynode: Share = 1.0
    max_bin: Annotated[int, Field(ge=2)] = 256
    max_leaves: Annotated[int, Field(ge=0)] = 0
    grow_policy: Literal["depthwise", "lossguide"] = "depthwise"
    max_delta_step: NotNegative = 0.0
    scale_pos_weight: Positive = 1.0


class NetworkModel(ModelSpec):
    """What every torch network shares. `init_from` is where it takes weights from: a run, a model
    folder, a folder of safetensors or one such file; `freeze` names parameters that stay as they
    are (`embeddings.*`).
    """

    family: ClassVar[str] = "network"
    units: ClassVar[tuple[str, ...]] = ("epochs", "steps")
    default_length: ClassVar[int] = 5
    train_keys: ClassVar[frozenset[str]] = NETWORK_KEYS
    wants_scaling: ClassVar[bool] = True
    init_from: str | None = None
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = ()
    lora: dict[str, Any] | None = None


class MlpModel(NetworkModel):
    """A multi-layer perceptron over numbers and embedded categories. With `residual`, a block
    whose width stays adds to its input.
    """

    kind: Literal["mlp"]
    residual: bool = False
    hidden: Annotated[tuple[Count, ...], Field(strict=False)] = (128, 128)
    norm: Literal["layer", "batch", "none"] = "layer"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"


class TabularTransformerModel(NetworkModel):
    """A transformer over column tokens (torch's names)."""

    kind: Literal["tabular_transformer"]
    d_model: Count = 64
    nhead: Count = 4
    num_layers: Count = 2
    dim_feedforward: Count = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class GptModel(NetworkModel):
    """A decoder-only language model of the Llama and Qwen families (Hugging Face's names).

    `tokenizer` is `bytes`, or a folder that holds `tokenizer.json`; `end_token`, which ends each
    document, is by default the tokenizer's own. Documents are packed into sequences of
    `max_tokens`; with `attention: sequence` a token sees the documents before its own too.
    """

    tasks: ClassVar[tuple[str, ...]] = ("language",)
    wants_scaling: ClassVar[bool] = False
    kind: Literal["gpt"]
    tokenizer: str = "bytes"
    end_token: str | None = None
    vocab_size: Count | None = None
    max_tokens: Count = 256
    hidden_size: Count = 256
    intermediate_size: Count | None = None
    num_hidden_layers: Count = 4
    num_attention_heads: Count = 4
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    rope_theta: Positive = 10_000.0
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    attention: Literal["document", "sequence"] = "document"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def feed_forward_size(self) -> int:
        """`intermediate_size`; by default 8/3 of the width, in whole 64s: with three matrices as
        many parameters as the usual two of four times the width.
        """
        return self.intermediate_size or -(-self.hidden_size * 8 // 3 // 64) * 64

    @property
    def num_shared_heads(self) -> int:
        """Heads of keys and values; by default as many as of queries."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width_of_head(self) -> int:
        """`head_dim`; by default the width divided among the heads."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


class MultimodalModel(NetworkModel):
    """Images, sounds, texts and columns together."""

    kind: Literal["multimodal"]


class CustomModel(NetworkModel):
    """A torch module of your own: `class: package.module:Class` from `code:`, with `args`."""

    kind: Literal["custom"]
    class_: str = Field(alias="class", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    args: dict[str, Any] = {}


Model = Annotated[
    Annotated[LinearModel, Tag("linear")]
    | Annotated[TreeModel, Tag("tree")]
    | Annotated[ForestModel, Tag("forest")]
    | Annotated[NeighborsModel, Tag("knn")]
    | Annotated[SupportVectorModel, Tag("svm")]
    | Annotated[XGBoostModel, Tag("xgboost")]
    | Annotated[MlpModel, Tag("mlp")]
    | Annotated[TabularTransformerModel, Tag("tabular_transformer")]
    | Annotated[GptModel, Tag("gpt")]
    | Annotated[MultimodalModel, Tag("multimodal")]
    | Annotated[CustomModel, Tag("custom")],
    Discriminator("kind"),
]
