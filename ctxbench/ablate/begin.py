"""What happens around the trials of an experiment: what they compare is saved, their logs kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ctxbench.ablate.distributed import world
from ctxbench.ablate.examples import examples
from ctxbench.ablate.experiment import Experiment
from ctxbench.ablate.plan import Planned, row_of
from ctxbench.ablate.rows import EXAMPLES, EXPERIMENTS, append_if_new
from ctxbench.ablate.tensorboard import Logs


@contextmanager
def begun(
    experiment: Experiment,
    planned: Sequence[Planned],
    *,
    out: Path,
    download: bool = False,
    tensorboard: bool = False,
    on_trouble: Callable[[str], None],
) -> Iterator[None]:
    """Save what an experiment compares and images of its data, once; keep logs meanwhile, if asked.

    Of the processes that torchrun started, the first does. `on_trouble` is told at the end what
    the logs lack.
    Raises: MissingPackageError without TensorBoard; RecordsError if nothing can be written.
    """
    if world()[0] != 0:
        yield
        return
    logs = Logs(experiment, planned, out=out, download=download) if tensorboard else None
    raw = out / "raw"
    append_if_new(EXPERIMENTS, row_of(experiment, list(planned)), "experiment", raw=raw)
    for data in dict.fromkeys(trial.data for each in planned for trial in each.trials):
        append_if_new(EXAMPLES, examples(data, download=download), "data", raw=raw)
    if logs is None:
        yield
        return
    with logs.kept():
        yield
    if logs.trouble:
        on_trouble(f"TensorBoard logs lack something: {logs.trouble}")
