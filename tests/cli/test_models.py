"""`ctxbench models`: what can be typed, what it costs, and what a wrong name is told."""

import json


def test_macs_are_counted_on_request(run):
    _, out, _ = run("models", "op/co*v", "--macs", "--format", "json")
    assert {row["model"]: row["macs"] for row in json.loads(out)} == {
        "op/conv": 9 * 64 * 64 * 56 * 56,
        "op/coconv": 9 * 64 * 64 * 56 * 56,
    }
    _, out, _ = run("models", "resnet50", "--macs")
    assert out.splitlines()[0].split()[:4] == ["kind", "name", "params", "MACs"]
    assert "4,089,184,256" in out


def test_macs_are_not_counted_without_a_request(run, monkeypatch):
    monkeypatch.setattr("ctxbench.measure.costs.count_spec", lambda spec: 1 / 0)
    assert run("models", "resnet50")[0] == 0


def test_the_values_of_options_can_be_typed_as_they_are_shown(run):
    _, out, _ = run("models", "op/conv", "--format", "json")
    (row,) = json.loads(out)
    spec = ":".join(["op/conv", *row["options"].split()])
    assert "out_channels=none" in spec
    assert run("flops", spec, "--image-size", "8")[0] == 0


def test_a_part_of_a_name_is_told_the_pattern_for_it(run):
    code, _, err = run("models", "overlock_")
    assert code == 2
    assert err.startswith("ctxbench: No operator or network is called 'overlock_'.")
    assert "Write '*overlock_*' for the " in err
    assert run("models", "*overlock_*")[0] == 0


def test_backends_are_a_table_of_their_own(run):
    code, out, _ = run("models", "op/coconv", "--backends", "--format", "json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["backend"], row["here"]) for row in rows][:2] == [
        ("reference", "yes"),
        ("torch", "yes"),
    ]
    assert set(rows[0]) == {"operator", "backend", "computes", "applies", "here"}
    head = run("models", "--backends")[1].splitlines()[0]
    assert head.split("  ")[0] == "operator"
    assert "where it applies" in head


def test_backends_of_a_network_are_asked_for_by_its_operators(run):
    assert run("models", "coresnet50", "--backends")[0] == 2
    code, _, err = run("models", "--backends", "--macs")
    assert code == 2
    assert "--backends lists no networks. Leave --long and --macs out." in err
