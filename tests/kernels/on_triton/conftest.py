"""Triton kernels run interpreted on a CPU, which TRITON_INTERPRET=1 asks for, or on a GPU."""

import pytest

pytest.importorskip("triton")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Return where the kernels run."""
    from ctxbench.kernels._backend import interprets

    if request.param == "cpu" and not interprets():
        pytest.skip("Triton runs on a CPU with TRITON_INTERPRET=1 alone; make test does so")
    return request.param
