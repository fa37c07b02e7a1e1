"""A model that is cut: what each rank holds, and how all of them score together."""

from __future__ import annotations

import copy
import multiprocessing
import traceback

import numpy as np

from heliostat.parallel.world import Degrees, TorchWorld
from tests.conftest import PATIENCE_SECONDS, free_port

CUTS = {
    "pipeline": Degrees(pipeline=2),
    "tensor": Degrees(tensor=2),
    "shard": Degrees(shard=2),
}


def test_no_rank_ever_brings_a_whole_model_to_its_device_and_all_score_as_it_does():
    """What goes to the device is the rank's own part, and nothing whole is kept beside it."""
    context = multiprocessing.get_context("spawn")
    answers, ports = context.Queue(), [free_port() for _ in CUTS]
    ranks = [
        context.Process(target=be_a_rank, args=(rank, ports, answers), daemon=True)
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            rank.start()
        found = [answers.get(timeout=PATIENCE_SECONDS) for _ in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    for answer in found:
        assert isinstance(answer, dict), answer
        for name, (count, moved, held, scores) in answer.items():
            assert max(moved, held) < 0.7 * count, name
            np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, err_msg=name)
    for name in CUTS:
        one, other = (answer[name] for answer in found)
        assert one[2] + other[2] >= one[0], name  # together they hold all
        assert np.array_equal(one[3][1], other[3][1]), name


def be_a_rank(rank: int, ports: list[int], answers) -> None:
    try:
        each = zip(CUTS, ports, strict=True)
        answers.put({name: cut_and_score(rank, port, name) for name, port in each})
    except BaseException:
        answers.put(traceback.format_exc())


def cut_and_score(rank: int, port: int, name: str) -> tuple:
    """Parameters of the whole, those moved to the device at once, those held in the end; scores of
    the whole model and of the one that is cut.
    """
    import torch
    from torch.distributed.tensor import DTensor

    from heliostat.models.network import NetworkPredictor, build_network
    from heliostat.models.predictor import Shape
    from heliostat.models.randomness import Randomness
    from heliostat.parallel.apply import parallelized
    from heliostat.spec.model import MlpModel

    def held(module: torch.nn.Module) -> int:
        local = [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
        return sum(tensor.numel() for tensor in local)

    degrees = CUTS[name]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    world = TorchWorld(rank, 2, f"127.0.0.1:{port}", 60.0, degrees.peers)
    shape = Shape(6, (5, 9), 3, "multiclass")
    spec = MlpModel(kind="mlp", hidden=(64, 64, 64, 64), norm="none")
    model = build_network(spec, shape, Randomness(0), None)
    count, moved = held(model), []
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 5, (50, 2))
    whole = NetworkPredictor(copy.deepcopy(model), shape).scores(*rows)
    to = model.to

    def moving(device: object) -> torch.nn.Module:
        moved.append(held(model))
        return to(device)

    model.to = moving  # type: ignore[method-assign]
    predictor = NetworkPredictor(model, shape)
    parallelized(model.train(), world, degrees)
    together = predictor.scores(*rows)
    world.close()
    assert model.training and predictor.is_joint
    return count, max(moved), held(model), (whole, together)
