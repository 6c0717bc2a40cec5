"""Rows tell what computed the operators; tables do where it is not the default."""

from ctxbench.report.schema import fault
from ctxbench.report.tables import context_cost, latency
from ctxbench.report.timings import asked_backend, timed, words
from tests.report.latency_rows import timing

OLD = timing("context", "plain", ratio=1.5)  # from before there were backends
NEW = {**OLD, "op_backend": "torch", "ratio": 1.2}
TRITON = {**OLD, "op_backend": "triton", "ratio": 1.1}


def test_a_row_without_the_field_can_be_read():
    row = dict(OLD)
    assert fault("latency", row) is None
    assert row["op_backend"] is None
    assert fault("latency", {**OLD, "op_backend": 3}) == "whose 'op_backend' is no text"


def test_the_default_replaces_rows_from_before_there_was_a_choice():
    assert [row["ratio"] for row in timed([OLD, NEW])] == [1.2]


def test_another_backend_is_another_measurement():
    assert [row["ratio"] for row in timed([NEW, TRITON])] == [1.2, 1.1]
    assert [row["ratio"] for row in timed([TRITON, NEW, {**TRITON, "ratio": 1.3}])] == [1.3, 1.2]


def test_a_network_is_beside_a_baseline_that_has_no_operators():
    baseline = {**timing("plain"), "op_backend": None}
    assert context_cost([baseline, TRITON])["params_ratio"].tolist() == [1.0]


def test_only_what_is_not_the_default_is_told():
    assert [asked_backend(row) for row in (OLD, NEW, TRITON)] == [None, None, "triton"]
    assert words(OLD) == words(NEW)
    assert words(TRITON) == [*words(OLD), "operators by triton"]
    assert "op_backend" not in latency([NEW])
    assert latency([NEW, TRITON])["op_backend"].tolist() == ["torch", "triton"]
