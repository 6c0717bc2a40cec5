"""TensorBoard logs, read as TensorBoard reads them."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)


def _read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(folder):
    """Return (step, value) of all points, by tag."""
    found = _read(folder)
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def settings(folder):
    """Return the group of a run and its hyperparameters."""
    content = _read(folder).PluginTagToContent("hparams")[SESSION_START_INFO_TAG]
    info = parse_session_start_info_plugin_data(content)
    values = {name: getattr(v, v.WhichOneof("kind")) for name, v in info.hparams.items()}
    return info.group_name, values


def text(folder, tag):
    """Return the first text of a tag."""
    (event, *_) = _read(folder).Tensors(tag)
    return event.tensor_proto.string_val[0].decode()
