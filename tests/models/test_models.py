"""Models alone: randomness, norms, and that what is saved is what is loaded."""

from __future__ import annotations

import numpy as np
import pytest
import skops.io
import torch
from pydantic import TypeAdapter
from torch import nn

from heliostat.errors import ArtifactError, UserError
from heliostat.models.boosted import feature_matrix, reference_rows
from heliostat.models.classic import (
    EstimatorPredictor,
    build_estimator,
    design_matrix,
    design_width,
)
from heliostat.models.network import NetworkPredictor, build_network, load_weights
from heliostat.models.norm import GlobalBatchNorm
from heliostat.models.predictor import Shape
from heliostat.models.randomness import HashDropout, Randomness
from heliostat.spec.model import Model

SHAPE = Shape(3, (5, 4), 1, "binary")
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=(300, 3)).astype(np.float32)
CATEGORIES = np.stack([RNG.integers(0, 5, 300), RNG.integers(0, 4, 300)], 1).astype(np.int32)
CLASSES = (NUMBERS[:, 0] + (CATEGORIES[:, 0] == 2) > 0.2).astype(np.int64)


def spec(**keys):
    return TypeAdapter(Model).validate_python(keys)


def test_dropout_is_a_function_of_seed_step_layer_row_and_column():
    rows = torch.arange(1000) + 2**40
    ones = torch.ones(1000, 64)

    def mask(seed=1, step=5, layer=0, part=slice(None)):
        randomness = Randomness(seed)
        dropout = HashDropout(0.3, 64, layer, randomness)
        randomness.set(step, rows[part])
        return dropout(ones[part]) > 0

    whole = mask()
    assert whole.double().mean() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(mask(part=slice(300, 500)), whole[300:500])
    for other in (mask(seed=2), mask(step=6), mask(layer=1)):
        assert (other == whole).double().mean() == pytest.approx(0.58, abs=0.01)  # independent
    correlation = np.corrcoef(whole.double().numpy().T)
    assert np.abs(correlation - np.eye(64)).max() < 0.15


def test_dropout_keeps_the_mean_and_leaves_evaluation_alone():
    randomness = Randomness(0)
    dropout = HashDropout(0.5, 32, 0, randomness)
    randomness.set(0, torch.arange(4000))
    x = torch.ones(4000, 32)
    assert dropout(x).mean() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(dropout.eval()(x), x)


def test_global_batch_norm_alone_is_batch_norm():
    torch.manual_seed(0)
    ours, theirs = GlobalBatchNorm(7), nn.BatchNorm1d(7)
    for _ in range(3):
        x = torch.randn(20, 7) * 3 + 1
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert torch.allclose(ours.mean, theirs.running_mean, atol=1e-6)
    assert torch.allclose(ours.variance, theirs.running_var, atol=1e-5)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)


NETWORKS = [
    *({"kind": "mlp", "hidden": [8, 8], "norm": norm} for norm in ("layer", "batch", "none")),
    {"kind": "mlp", "hidden": [8, 8, 8], "residual": True},
    {"kind": "tabular_transformer", "d_model": 8, "nhead": 2, "dim_feedforward": 16},
]


@pytest.mark.parametrize("keys", NETWORKS, ids=str)
def test_a_network_survives_storage(tmp_path, keys):
    network = spec(**keys, dropout=0.2)
    torch.manual_seed(1)
    module = build_network(network, SHAPE, Randomness(), None)
    module.train()(torch.from_numpy(NUMBERS), torch.from_numpy(CATEGORIES).long())
    predictor = NetworkPredictor(module, SHAPE)
    predictor.save(tmp_path)
    again = build_network(network, SHAPE, Randomness(), None)
    load_weights(again, tmp_path / "weights.safetensors")
    scores = predictor.scores(NUMBERS, CATEGORIES)
    assert np.array_equal(NetworkPredictor(again, SHAPE).scores(NUMBERS, CATEGORIES), scores)
    assert scores.shape == (300,) and ((scores > 0) & (scores < 1)).all()
    assert len(predictor.scores(NUMBERS[:0], CATEGORIES[:0])) == 0


@pytest.mark.parametrize("keys", NETWORKS, ids=str)
def test_no_parameter_has_a_gradient_that_is_zero_by_mathematics(keys):
    """A bias before batch normalisation, or of keys, would drift; there must be none."""
    torch.manual_seed(0)
    module = build_network(spec(**keys), SHAPE, Randomness(), None).double()
    numbers, codes = torch.from_numpy(NUMBERS).double(), torch.from_numpy(CATEGORIES).long()
    (module(numbers, codes)[:, 0] * torch.randn(len(numbers)).double()).sum().backward()
    for name, parameter in module.named_parameters():
        assert float(parameter.grad.abs().max()) > 1e-6, name


def test_dropout_in_a_transformer_is_a_rows_own():
    """The same rows give the same outputs, alone or among others, and others in another step."""
    keys = {"kind": "tabular_transformer", "d_model": 8, "nhead": 2, "dropout": 0.3}
    randomness = Randomness(3)
    module = build_network(spec(**keys), SHAPE, randomness, None).train()
    numbers, codes = torch.from_numpy(NUMBERS), torch.from_numpy(CATEGORIES).long()
    rows = torch.arange(len(numbers))
    randomness.set(5, rows)
    whole = module(numbers, codes)
    randomness.set(5, rows[40:60])
    torch.testing.assert_close(module(numbers[40:60], codes[40:60]), whole[40:60])
    randomness.set(6, rows)
    assert not torch.allclose(module(numbers, codes), whole)


@pytest.mark.parametrize(
    ("keys", "task"),
    [
        ({"kind": "linear", "penalty": penalty}, task)
        for penalty in ("none", "l1", "l2", "elasticnet")
        for task in ("binary", "regression")
    ]
    + [
        ({"kind": kind} | extra, task)
        for kind, extra in (("tree", {}), ("forest", {"n_estimators": 5}), ("knn", {}), ("svm", {}))
        for task in ("binary", "multiclass", "regression")
    ],
)
def test_a_classic_model_survives_storage_without_pickle(tmp_path, keys, task):
    model = spec(**keys)
    target = CATEGORIES[:, 1] % 3 if task == "multiclass" else CLASSES
    shape = Shape(3, (5, 4), 3 if task == "multiclass" else 1, task)
    matrix = design_matrix(NUMBERS, CATEGORIES, shape.cardinalities, model.encoding)
    assert matrix.shape[1] == design_width(shape, model.encoding)
    estimator = build_estimator(model, task, seed=1, threads=1)
    estimator.fit(matrix, target.astype(float) if task == "regression" else target)
    predictor = EstimatorPredictor(estimator, shape, model.encoding)
    predictor.save(tmp_path)
    again = EstimatorPredictor.load(tmp_path, shape, model.encoding)
    assert np.array_equal(again.scores(NUMBERS, CATEGORIES), predictor.scores(NUMBERS, CATEGORIES))


def test_a_foreign_type_in_a_stored_estimator_is_refused(tmp_path):
    import collections

    skops.io.dump(collections.Counter(a=1), tmp_path / "estimator.skops")
    with pytest.raises(ArtifactError, match="types that are not trusted"):
        EstimatorPredictor.load(tmp_path, SHAPE, "codes")


def test_reference_rows_name_every_category():
    matrix = feature_matrix(NUMBERS, CATEGORIES)
    assert np.isnan(matrix[CATEGORIES[:, 0] < 2, 3]).all()
    rows = reference_rows(matrix[:2], SHAPE)[2:]
    assert np.isnan(rows[:, :3]).all()
    assert set(rows[:, 3]) == {0, 1, 2} and set(rows[:, 4]) == {0, 1}


CUSTOM = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self, shape, scale=1):\n        super().__init__(shape.num_numbers, shape.num_outputs)\n        self.scale = scale\n    def forward(self, n, c):\n        return super().forward(n) * self.scale\n"


def test_own_code_is_imported_from_its_folder_alone(tmp_path):
    for name, text in (("one", CUSTOM), ("two", CUSTOM.replace("scale=1", "scale=5"))):
        (tmp_path / name / "ownmodels").mkdir(parents=True)
        (tmp_path / name / "ownmodels" / "__init__.py").write_text("")
        (tmp_path / name / "ownmodels" / "net.py").write_text(text)
    custom = spec(**{"kind": "custom", "class": "ownmodels.net:Net"})
    for name, scale in (("one", 1), ("two", 5), ("one", 1)):
        assert build_network(custom, SHAPE, Randomness(), tmp_path / name).scale == scale
    with pytest.raises(UserError, match="cannot be imported"):
        build_network(
            spec(**{"kind": "custom", "class": "ownmodels.no:Net"}),
            SHAPE,
            Randomness(),
            tmp_path / "one",
        )
    with pytest.raises(UserError, match="holds no torch module called `Nope`"):
        build_network(
            spec(**{"kind": "custom", "class": "ownmodels.net:Nope"}),
            SHAPE,
            Randomness(),
            tmp_path / "one",
        )
    with pytest.raises(UserError, match="does not take these arguments"):
        build_network(
            spec(**{"kind": "custom", "class": "ownmodels.net:Net", "args": {"x": 1}}),
            SHAPE,
            Randomness(),
            tmp_path / "one",
        )
    with pytest.raises(UserError, match="does not lie in"):
        build_network(
            spec(**{"kind": "custom", "class": "torch.nn:Linear"}),
            SHAPE,
            Randomness(),
            tmp_path / "one",
        )
