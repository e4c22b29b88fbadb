"""What users of other projects type, and what it is called here.

Where there is no doubt what is meant, it is taken as that (`meant`). Else the error says what to type (`answer`). How a
name is written (imageSize, image-size, image_size) makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterable

_BOTH_LR = ("optim.g.lr", "optim.d.lr")

_MEANT: dict[tuple[str, ...], str] = {
    ("data.name",): "data dataset data-dir data-path data-root dataroot root dataset-path dataset-dir train-dir "
    "train-data-dir image-dir image-folder images-dir img-dir input-dir input folder",
    ("data.resolution",): "imgsz image-size img-size size res input-size target-size crop-size",
    ("data.channels",): "nc n-channels num-channels img-channels image-channels in-channels",
    ("data.mirror",): "flip hflip horizontal-flip mirror-augment random-flip",
    ("data.limit",): "max-samples max-images subset max-data",
    ("data.background",): "bg background-color background-colour",
    ("storage",): "outdir out-dir output-dir output save-dir out results-dir result-dir results run-dir",
    ("name",): "exp-name experiment-name run-name experiment exp run-id job-name",
    ("seed",): "manual-seed random-seed random-state global-seed",
    ("batch_size",): "batch bs batchsize train-batch-size global-batch-size n-batch",
    ("minutes",): "max-minutes time-minutes",
    ("finetune",): "fine-tune finetune-from init-from transfer transfer-from",
    ("model.name",): "model arch architecture network networks net backbone-gan gan model-name",
    ("model.latent_dim",): "nz z-dim zdim latent-size z-size noise-dim noise-size latent-dimension dim-z",
    ("model.g_width",): "ngf g-channels g-dim gen-channels",
    ("model.d_width",): "ndf d-channels d-dim disc-channels",
    ("loss.name",): "loss gan-mode gan-loss adversarial-loss loss-type gan-type loss-fn",
    ("loss.gp_lambda",): "lambda-gp gp-weight gp-lambda-weight gradient-penalty-weight",
    _BOTH_LR: "lr learning-rate",
    ("optim.g.lr",): "lr-g g-lr glr lrg gen-lr generator-lr lr-gen lr-generator learning-rate-g",
    ("optim.d.lr",): "lr-d d-lr dlr lrd disc-lr discriminator-lr lr-disc lr-discriminator learning-rate-d critic-lr",
    ("optim.g.beta1", "optim.d.beta1"): "beta1 b1 beta-1 adam-beta1",
    ("optim.g.beta2", "optim.d.beta2"): "beta2 b2 beta-2 adam-beta2",
    ("optim.g.weight_decay", "optim.d.weight_decay"): "weight-decay wd",
    ("training.n_dis",): "n-critic ncritic critic-iters critic-steps d-steps num-d-steps diters d-iters",
    ("training.accumulate",): "grad-accum gradient-accumulation-steps accumulation-steps grad-accumulation",
    ("training.freeze_d",): "freezed freeze-disc",
    ("augment.kind",): "augment aug augmentation",
    ("metrics.names",): "metrics metric-names",
    ("log.writers",): "loggers logger report-to",
}
_OF_TUNE: dict[tuple[str, ...], str] = {
    ("tune.num_samples",): "trials n-trials num-trials max-trials",
    ("tune.max_concurrent_trials",): "concurrent concurrency max-concurrent n-jobs parallel-trials",
    ("tune.time_s",): "time-budget-s timeout time-budget max-time",
    ("tune.searcher",): "search-alg sampler search-algorithm algorithm",
    ("tune.metric",): "objective",
}
_KIMG = (
    "a budget here is --kimg, thousands of real images shown to the discriminator, or --minutes; E epochs of N images "
    "are E x N / 1000 kimg, S steps are S x batch_size / 1000"
)
_GPUS = (
    "--workers N trains with N processes, a GPU each where there are any; auto takes all of them, and "
    "CUDA_VISIBLE_DEVICES says which there are"
)
_PRECISION = "--training.precision bf16 or fp32; auto = bf16 on a GPU"
_RESUME = (
    "the same command goes on from the newest checkpoint, and so does `distgan resume NAME`; a new run that begins "
    "with the weights of another is --finetune NAME"
)
_LOGGED = "curves and pictures are in STORAGE/NAME/tensorboard and the numbers in metrics.jsonl; see --log.writers"
_TRIALS = (
    "trials of a search are --tune.num-samples of `distgan tune`; generated images are -n of `distgan sample`, "
    "--metrics.samples in a measurement and --log.grid in a picture"
)
_EMA = "--training.ema-half-life-kimg: the generator's average by its half-life in kimg; decay b a step of B images is "
_EMA += "B x ln 0.5 / ln b / 1000"
_SCHEDULE = "--optim.g.lr-schedule.kind and --optim.d.lr-schedule.kind: constant, linear or cosine; warmup_kimg beside"
_CHECKPOINTS = "checkpoints lie in STORAGE/NAME/checkpoints (--storage, --name) and come every --checkpoint.every-kimg"
_R1 = "--loss.r1-gamma G at real images, --loss.r2-gamma G at generated ones: G/2 |grad D|^2"
_LOADING = (
    "images are decoded once into a cache that all workers share, so nothing loads while training; --workers N is "
    "the number of processes that train together"
)
_ANSWERED: dict[str, str] = {
    "epochs n-epochs num-epochs epoch max-epochs niter n-iter iters iterations num-iterations max-iters total-iters "
    "steps max-steps num-steps train-steps total-steps n-steps": _KIMG,
    "hours max-hours time duration": "a budget in time is --minutes M",
    "gpus gpu num-gpus n-gpus ngpu gpu-ids gpu-id devices device world-size nproc-per-node num-processes ddp "
    "distributed num-nodes strategy accelerator cuda use-gpu no-cuda cpu backend": _GPUS,
    "amp fp16 half mixed-precision use-amp use-fp16 bf16 fp32 tf32 dtype": _PRECISION,
    "wandb use-wandb mlflow comet tb tensorboard-dir log-dir logdir logs use-tensorboard": _LOGGED,
    "resume resume-from continue continue-train restore ckpt checkpoint load load-from load-checkpoint pretrained "
    "pretrained-model weights resume-pkl start-epoch": _RESUME,
    "num-workers n-workers n-cpu num-cpus loader-workers data-workers prefetch pin-memory threads": _LOADING,
    "num-samples n-samples samples sample-num num-images n-images": _TRIALS,
    "trials n-trials num-trials max-concurrent-trials max-concurrent concurrency n-jobs": _TRIALS,
    "ema use-ema ema-decay ema-beta ema-rate ema-kimg g-ema averaging": _EMA,
    "lr-scheduler lr-schedule scheduler lr-policy lr-decay warmup warmup-steps warmup-epochs cosine decay-epoch": (
        _SCHEDULE
    ),
    "snap save-every save-interval save-freq checkpoint-every checkpoint-interval checkpoint-dir ckpt-dir "
    "checkpoints-dir save-model": _CHECKPOINTS,
    "sample-interval sample-every sample-freq display-freq image-snap": "pictures come every --log.samples-every-kimg",
    "eval-every eval-interval eval-freq fid-every eval": "measurements come every --metrics.every-kimg",
    "log-every log-interval log-freq print-freq logging-steps tick": "lines come every --log.every-kimg",
    "gamma r1 r1-reg lambda-r1 r1-weight r2 gp gradient-penalty reg": _R1,
    "betas adam-betas": "--optim.g.beta1, --optim.g.beta2, --optim.d.beta1 and --optim.d.beta2, a number each",
    "optimizer optimiser opt": "both networks learn by Adam: --optim.g.lr, beta1, beta2, eps, weight_decay; so optim.d",
    "num-classes n-classes classes": "the classes are those of the data: sub-folders, or labels in dataset.json",
    "cond conditional class-cond use-labels": "--model.conditioning auto, none, projection or auxiliary",
    "batch-gpu per-device-train-batch-size batch-per-gpu micro-batch": (
        "--batch-size is of all workers together; --training.accumulate N computes a worker's share in N parts"
    ),
    "cfg config-file yaml": "--config FILE or NAME; `distgan config --list` shows those that ship",
    "spectral-norm sn use-sn": "--model.d-norm spectral",
    "ada diffaug diffaugment diff-augment": "--augment.kind ada or diffaugment; auto decides by the number of images",
    "label-smoothing smooth real-label": (
        "labels are not smoothed; what keeps D in check are the penalties --loss.r1-gamma and --loss.r2-gamma"
    ),
    "dry-run fast-dev-run debug": "`distgan config` shows what a run would use, and --kimg 1 is a very short one",
    "project": "--storage is the folder of the runs, --name the name of this one",
    "local no-ray": "--engine local trains without Ray",
    "truncation psi trunc": "--truncation belongs to `distgan sample`",
}

_VALUES: dict[str, dict[str, str]] = {
    "loss.name": {
        "bce gan vanilla ns nsgan standard logistic": "non-saturating (binary cross-entropy)",
        "mm": "minimax",
        "ls lsgan mse": "least-squares",
        "wgan": "wasserstein",
        "wgan-gp": "wasserstein, with --loss.gp-lambda 10",
        "rgan rpgan rsgan ragan r3gan": "relativistic",
    },
    "model.name": {
        "stylegan stylegan2 stylegan3": "style",
        "sngan biggan sagan": "resnet",
        "fc linear dense": "mlp",
        "cnn conv lightweight-gan fastgan": "dcgan",
    },
    "augment.kind": {"noaug off false": "none", "diffaug on true": "diffaugment", "adaptive": "ada"},
    "training.precision": {"fp16 float16 half amp mixed": "bf16", "float32 full": "fp32", "bfloat16": "bf16"},
}


def _plain(name: str) -> str:
    """A name without the marks between its words, which everybody sets in another way."""
    return name.lower().replace("-", "").replace("_", "")


def _table(meanings: dict[tuple[str, ...], str]) -> dict[str, tuple[str, ...]]:
    return {_plain(word): names for names, words in meanings.items() for word in words.split()}


MEANT, OF_TUNE = _table(_MEANT), _table(_OF_TUNE)
ANSWERED = {_plain(word): text for words, text in _ANSWERED.items() for word in words.split()}

VALUES = {
    name: {_plain(word): own for words, own in values.items() for word in words.split()}
    for name, values in _VALUES.items()
}

FOLDERS = {_plain(word) for word in ("root", "data-root", "data-dir", "data-path")}
"""Among those of data.name: beside the name of a known set they are the folder that it lies in, data.root."""


def meant(typed: str, settings: Iterable[str], command: str = "train") -> tuple[str, ...]:
    """The settings that a name without doubt means: a known synonym, another spelling, or the only one that ends like
    it; nothing where there is doubt. settings: all dotted names. Those of `tune` count in `distgan tune` alone.
    """
    word = _plain(typed)
    if command == "tune" and word in OF_TUNE:
        return OF_TUNE[word]
    if word in MEANT:
        return MEANT[word]
    names = [name for name in settings if command == "tune" or not name.startswith("tune.")]
    spelled = [name for name in names if _plain(name) == word]
    if spelled:
        return tuple(spelled[:1])
    ends = [name for name in names if "." in name and _plain(name.rpartition(".")[2]) == word]
    if len(ends) == 1 and (word not in ANSWERED or (command == "tune" and ends[0].startswith("tune."))):
        return tuple(ends)
    return ()


def answer(typed: str) -> str:
    """What to type in place of a name that is none here, "" where nothing is known of it."""
    return ANSWERED.get(_plain(typed), "")


def value_answer(name: str, value: object) -> str:
    """What a setting's value from elsewhere is called here, as the end of an error; "" where nothing is known of it."""
    own = VALUES.get(name, {}).get(_plain(str(value)), "")
    return f"; {value} is {own} here" if own else ""
