"""What the tests of all kernels share: wrong copies of a module, and compiling without a GPU."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# name of a GPU -> its architecture, and the shared memory that a block can have, in bytes
GPUS = {"A100": (80, 166_912), "H100": (90, 232_448)}

# what every kernel is compiled for; the other pairs are slow, and show little more
_PAIRS = [("fp32", "A100"), ("bf16", "H100")]
_OTHERS = [(kind, gpu) for kind in ("fp32", "bf16", "fp16") for gpu in GPUS]
every_gpu = pytest.mark.parametrize(
    ("kind", "gpu"),
    [*_PAIRS, *(pytest.param(*p, marks=pytest.mark.slow) for p in _OTHERS if p not in _PAIRS)],
)


def mutant(module, old, new, folder):
    """Import a copy of a module in which one piece of the source is replaced."""
    source = Path(module.__file__).read_text()
    assert source.count(old) >= 1, f"{old!r} is not in {module.__name__}"
    path = folder / f"mutant_{len(list(folder.iterdir()))}.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_{path.stem}", path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # a kernel is looked up by the module that it stands in
    spec.loader.exec_module(made)
    return made


def compile_ahead(kernel, types, constants, architecture, *, aligned=(), **options):
    """Compile a Triton kernel to machine code; no GPU is needed.

    `types` are those of all parameters that are no constants, `constants` the values of the others,
    `aligned` the names of those that are multiples of 16, as pointers and sizes mostly are: Triton
    then loads several numbers at once, and ahead of time into shared memory.
    Returns what triton.compile does: `.asm["ptx"]`, `.metadata.shared`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    attributes = {
        (names.index(name),): [["tt.divisibility", 16]] for name in aligned if name not in constants
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def of_one(kernel, types, constants):
    """Return the constants, with 1 for every number: the case that Triton compiles by itself."""
    numbers = {name for name in kernel.arg_names if types[name] == "i32" and name not in constants}
    return constants | dict.fromkeys(numbers, 1)


def spilled_bytes(compiled, architecture, folder):
    """Return how many bytes a thread of a compiled kernel puts aside, as the assembler reports it.

    The code that it assembles has as many registers as it likes, and tells nothing of this.
    """
    from triton import knobs

    source = folder / "kernel.ptx"
    source.write_text(compiled.asm["ptx"])
    name = f"sm_{architecture}" + ("a" if architecture == 90 else "")
    command = [knobs.nvidia.ptxas.path, "-v", f"-arch={name}", source, "-o", "/dev/null"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return max(int(count) for count in re.findall(r"(\d+) bytes spill stores", report))


def gradients(y, leaves, seed=3):
    """Return the gradients of the leaves for a drawn gradient of y."""
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    return torch.autograd.grad(y, leaves, upstream)
