"""Two workers fine-tune as one does, with frozen stages in their discriminator."""

import torch
import torch.distributed as dist
from tiny_run import TINY
from two_processes import run_two

from distgan.config import load_config, validate
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training import loop
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context

PLAIN = {
    "model.name": "dcgan",
    "model.g_norm": "none",
    "model.d_norm": "none",
    "model.g_width": 4,
    "model.d_width": 4,
    "model.conditioning": "projection",
    "loss.name": "relativistic",
    "loss.r1_gamma": 0.5,
    "loss.r2_gamma": 0.5,
    "optim.g.eps": 1e-3,
    "optim.d.eps": 1e-3,
    "optim.d.weight_decay": 0.1,
    "training.reuse_fakes": True,
    "metrics.every_kimg": 5,
    "metrics.names": "[]",
    "log.every_kimg": 0.064,
}


def worker(rank, port, plan):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    config = validate(plan)
    folder = Folder(config.storage).child(config.run_name)
    for stop_at in (64, 999):  # begun, stopped, and gone on with
        context = Context(torch.device("cpu"))

        def tick(status, context=context, stop_at=stop_at):
            if status["nimg"] == stop_at:
                context.request_stop()

        loop.train(config, context, folder, on_tick=tick)
    dist.destroy_process_group()


def test_two_workers_freeze_and_learn_what_one_does(tmp_path, caches):
    storage = {"storage": str(tmp_path / "runs")}
    first = prepare(load_config(overrides=TINY | PLAIN | storage | {"name": "first", "kimg": 0.256}))
    loop.train(first.config, Context(torch.device("cpu")), first.folder)
    begun = CheckpointStore(first.folder).newest()[1]
    how = TINY | PLAIN | storage | {"finetune": "first", "training.freeze_d": 1, "kimg": 0.256, "seed": 4}
    one, two = (prepare(load_config(overrides=how | {"name": name})) for name in ("one", "two"))
    loop.train(one.config, Context(torch.device("cpu")), one.folder)
    plan = two.config.model_dump(mode="json")
    run_two(worker, caches, plan)
    ours, theirs = (CheckpointStore(each.folder).newest()[1] for each in (one, two))
    assert ours["nimg"] == theirs["nimg"] == 256
    for part in ("G", "D", "ema"):
        for name, weight in ours[part].items():
            torch.testing.assert_close(theirs[part][name], weight, atol=1e-5, rtol=0)
    for state in (ours, theirs):
        same = {name for name, weight in begun["D"].items() if torch.equal(weight, state["D"][name])}
        assert same - {"head.logit.bias"} == {"first.weight", "first.bias"}  # which pairs of images cannot move
        assert len(state["d_opt"]) == len(begun["d_opt"]) - 2  # Adam knows nothing of them
    assert float(ours["G"]["project.weight"].sub(begun["G"]["project.weight"]).abs().max()) > 1e-4
