"""What the tests of all kernels share: wrong copies of a module, and compiling without a GPU."""

import importlib.util
import sys
from pathlib import Path

import torch

# name of a GPU -> its architecture, and the shared memory that a block can have, in bytes
GPUS = {"A100": (80, 166_912), "H100": (90, 232_448)}


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


def compile_ahead(kernel, types, constants, architecture, **options):
    """Compile a Triton kernel to machine code; no GPU is needed.

    `types` are those of all parameters that are no constants, `constants` the values of the others.
    Returns what triton.compile does: `.asm["ptx"]`, `.metadata.shared`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def gradients(y, leaves, seed=3):
    """Return the gradients of the leaves for a drawn gradient of y."""
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    return torch.autograd.grad(y, leaves, upstream)
