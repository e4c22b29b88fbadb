"""python docker/lock.py: resolve pyproject.toml anew and write the lock files of the image, with hashes. Needs `pip
install uv`.
"""

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
COMMAND = (
    "uv pip compile pyproject.toml --extra s3 --extra metrics --python-version 3.11 --python-platform "
    "x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate --quiet"
)
# The releases that the project is tested with; raise them here.
PINS = "ray==2.60.0\ntorch==2.14.1\ntorchvision==0.29.1\n"
GPU = re.compile(r"(torch|torchvision|triton)==|(nvidia|cuda)-")

if __name__ == "__main__":
    done = subprocess.run(
        [*COMMAND.split(), "-c", "-"], input=PINS, capture_output=True, text=True, check=True, cwd=HERE.parent
    )
    blocks = re.split(r"\n(?=[a-z0-9])", done.stdout.strip())
    for name, what, wanted in (
        ("requirements.lock", "Everything but PyTorch and its CUDA libraries, which are in torch.*.lock.", False),
        ("torch.cuda.lock", "PyTorch with the CUDA libraries that it brings, from PyPI.", True),
    ):
        chosen = [block for block in blocks if bool(GPU.match(block)) == wanted]
        (HERE / name).write_text(f"# {what} Made by docker/lock.py\n" + "\n".join(chosen) + "\n")
        print(f"{name}: {len(chosen)} packages")
