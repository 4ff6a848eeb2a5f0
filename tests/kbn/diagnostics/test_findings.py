"""Each rule on facts alone: what it says, with which severity, and when it is silent."""

import dataclasses

import pytest

from kbn.diagnostics.facts import Facts
from kbn.diagnostics.findings import RULES, WORTH_KNOWING, WRONG, findings
from kbn.diagnostics.outputs import OutputChange

SOUND = Facts(
    layer="bn",
    library="keras",
    channels=8,
    mode="trains",
    trains=True,
    trains_in_predict=False,
    trains_in_call=False,
    written=None,
    momentum=0.9,
    steps=1000,
    kept=0.9**1000,
    initial=False,
    finite=True,
    skipped=0,
    examples=100.0,
    departure=0.02,
    allowed=0.05,
    batch_noise=0.1,
    elements=64.0,
    dead=0,
    below_epsilon=0,
    epsilon=1e-3,
    silent=0,
    bias_of="",
    bias_size=0,
    frozen_before="",
    corrected=False,
)
STILL = (OutputChange("y", 0.02, 0.1, 0.0, 0.02),)
MOVED = (OutputChange("y", 0.5, 0.1, 0.2, 0.02),)
UNKNOWN = dict.fromkeys(
    ("departure", "allowed", "batch_noise", "elements", "dead", "below_epsilon", "silent", "steps", "kept")
)
FROZEN = {"trains": False, "mode": "trainable=False"}
INFERENCE = "the model runs it in inference mode even while training"


def told(outputs=STILL, **changes):
    return {finding.code: finding for finding in findings(dataclasses.replace(SOUND, **changes), outputs)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        UNKNOWN,
        FROZEN,
        FROZEN | {"written": False},
        {"written": True},  # told by what it does
        {"departure": 0.09, "allowed": 0.01, "batch_noise": 0.02},
        {"departure": 0.5, "allowed": 0.6, "batch_noise": 0.1},
        {"departure": 0.5, "allowed": 0.1, "batch_noise": 0.6},
        {"initial": True, "departure": 0.05},
        {"elements": 2.0, "corrected": True},
        {"elements": 2.0, **FROZEN},
        {"frozen_before": "conv", **FROZEN},
        {"below_epsilon": 4},
    ],
)
def test_nothing_is_said_of_what_is_sound(changes):
    assert told(**changes) == {}


def test_outputs_that_move_blame_no_layer_that_does_not():
    assert told(MOVED) == {}
    assert told(MOVED, **UNKNOWN) == {}


STALE = {"departure": 0.5, "allowed": 0.1, "batch_noise": 0.2}
CASES = [
    ("not-finite", WRONG, {"finite": False}, STILL, "NaN"),
    ("training-true", WRONG, {"trains_in_predict": True, "trains_in_call": True}, STILL, "Inference normalises"),
    ("training-true", WRONG, {"trains_in_call": True}, STILL, "predict() does not"),
    ("training-false-ignored", WRONG, {"written": False}, STILL, "Keras overrides"),
    ("never-updated", WRONG, {"initial": True, "departure": 0.5}, STILL, "50% of its spread"),
    ("never-updated", WRONG, {"initial": True, "departure": None}, STILL, "no training step"),
    ("never-updated", WRONG, {"initial": True, "departure": 0.5, **FROZEN}, STILL, "initialised"),
    ("stale-averages", WRONG, STALE, MOVED, "off by 50.0% of its spread"),
    ("stale-averages", WRONG, STALE, MOVED, "20.0% of the examples change their class"),
    ("stale-averages", WORTH_KNOWING, STALE, STILL, "moves by 2% of its spread"),
    ("stale-averages", WORTH_KNOWING, {"departure": 0.09, "allowed": 0.01, "batch_noise": 0.02}, MOVED, "9.0%"),
    ("slow-momentum", WORTH_KNOWING, {"steps": 20, "kept": 0.9**20}, STILL, "12.2% of the averages"),
    ("slow-momentum", WRONG, {"steps": 20, "kept": 0.9**20} | STALE, MOVED, "20 training steps"),
    ("small-batch", WORTH_KNOWING, {"elements": 15.9}, STILL, "errs by 25%"),
    ("small-batch", WRONG, {"elements": 1.0}, STILL, "100% short"),
    ("dead-channels", WORTH_KNOWING, {"dead": 7}, STILL, "7 of 8"),
    ("dead-channels", WRONG, {"dead": 8}, STILL, "All of 8"),
    ("frozen-averages-differ", WORTH_KNOWING, STALE | FROZEN, MOVED, "50% of its spread"),
    ("never-trains", WORTH_KNOWING, {"trains": False, "mode": INFERENCE}, STILL, "training=False"),
    ("updates-among-frozen", WORTH_KNOWING, {"frozen_before": "conv"}, STILL, "'conv'"),
    ("silent-relu", WORTH_KNOWING, {"silent": 3}, STILL, "In 3 of 8"),
    ("silent-relu", WRONG, {"silent": 8}, STILL, "In all of 8"),
    ("epsilon-dominates", WORTH_KNOWING, {"below_epsilon": 5}, STILL, "5 of 8"),
    ("useless-bias", WORTH_KNOWING, {"bias_of": "conv", "bias_size": 8}, STILL, "(8 parameters)"),
    ("batches-skipped", WORTH_KNOWING, {"skipped": 3}, STILL, "3 training batches"),
]


@pytest.mark.parametrize(("code", "severity", "changes", "outputs", "words"), CASES)
def test_what_is_said(code, severity, changes, outputs, words):
    finding = told(outputs, **changes)[code]
    assert (finding.severity, finding.layer) == (severity, "bn")
    assert words in finding.what
    for text in (finding.what, finding.remedy):
        assert text.endswith(".")


def test_every_rule_is_tested():
    assert len(RULES) == len({code for code, *_ in CASES})


@pytest.mark.parametrize(("steps", "momentum"), [(20, 0.9), (3, 0.99), (1, 0.5), (440, 0.99)])
def test_the_momentum_it_names_is_quick_enough(steps, momentum):
    remedy = told(steps=steps, momentum=momentum, kept=momentum**steps)["slow-momentum"].remedy
    (named,) = [float(word) for word in remedy.replace(",", " ").split() if word.startswith("0.")]
    assert named**steps <= 0.01 < (named + 0.002) ** steps


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        (OutputChange("y", 0.09, 0.01, None, None), False),
        (OutputChange("y", 0.11, 0.01, None, None), True),
        (OutputChange("y", 0.11, 0.2, None, None), False),
        (OutputChange("y", 0.11, None, None, None), True),
        (OutputChange("y", float("nan"), 0.2, None, None), True),
        (OutputChange("y", 0.01, 0.2, 0.03, 0.02), True),
        (OutputChange("y", 0.01, 0.2, 0.03, 0.04), False),
        (OutputChange("y", 0.01, 0.2, 0.009, 0.0), False),
    ],
)
def test_when_an_output_matters(change, matters):
    assert change.matters is matters
