"""The rules of an audit: each takes the facts of one layer, and says what is wrong with it or nothing.

A rule of severity WRONG says that predictions suffer, or will; WORTH_KNOWING that something is wasted, or may be meant.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kbn.diagnostics.facts import Facts
from kbn.diagnostics.outputs import OutputChange

WRONG = "wrong"
WORTH_KNOWING = "worth knowing"

# What is left of the start of an average is bias, all of it; below a hundredth it is less than the noise of an average
# of momentum 0.99 over batches of 32 examples: sqrt(0.01 / 1.99 / 32) = 0.0125 standard deviations.
KEPT = 0.01
# With n independent elements in a batch, its mean errs by 1 / sqrt(n) standard deviations and its variance falls short by
# 1 / n: a quarter of one with 16, which batch normalization is known to bear; half of one, and a quarter too little, with 4.
FEW, TOO_FEW = 16.0, 4.0
# A layer whose output moves by less of its spread than this is not worth a word where the model's outputs stay.
NOTICEABLE = 0.1


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found.

    Attributes:
        code: which, for programs; stable.
        severity: "wrong" or "worth knowing".
        layer: the layer's name.
        what: one sentence, with the numbers.
        remedy: what to do.
    """

    code: str
    severity: str
    layer: str
    what: str
    remedy: str


Outputs = Sequence[OutputChange]
Rule = Callable[[Facts, Outputs], Finding | None]


def _matter(outputs: Outputs) -> bool:
    return any(output.matters for output in outputs)


def _effect(outputs: Outputs) -> str:
    """The largest change of an output, in words."""
    if not outputs:
        return "the model has no output to judge it by"
    worst = max(outputs, key=lambda output: (output.matters, output.change))
    classes = "" if worst.top1 is None else f", and {worst.top1:.1%} of the examples change their class"
    return (
        f"with the statistics of the data, output {worst.output!r} moves by {worst.change:.0%} of its spread{classes}"
    )


def not_finite(facts: Facts, _: Outputs) -> Finding | None:
    if facts.finite:
        return None
    return Finding(
        "not-finite",
        WRONG,
        facts.layer,
        "The moving averages hold NaN, infinity or a negative variance: every prediction is spoiled.",
        "Recalibrate (kbn.recalibrate), and train with kbn.BatchNormalization, which skips batches that are not finite.",
    )


def batch_statistics_in_inference(facts: Facts, _: Outputs) -> Finding | None:
    if facts.trains_in_predict:
        what = (
            "Inference normalises with the statistics of the batch and moves the averages: a prediction depends on what else "
            "is in its batch."
        )
    elif facts.trains_in_call:
        what = (
            "model(x) normalises with the statistics of the batch and moves the averages, predict() does not: the two "
            "disagree."
        )
    else:
        return None
    return Finding(
        "training-true",
        WRONG,
        facts.layer,
        what,
        "Take `training=True` out of the call of the layer, or of the model around it.",
    )


def inference_mode_ignored(facts: Facts, _: Outputs) -> Finding | None:
    if facts.written is not False or not facts.trains:
        return None
    return Finding(
        "training-false-ignored",
        WRONG,
        facts.layer,
        "`training=False` is written into its call, but Keras overrides that in fit(): the averages move, and training "
        "normalises with the batch's statistics.",
        "Set `trainable = False` on the layer; kbn's has freeze='inference', and 'statistics' to train gamma and beta alone.",
    )


def never_updated(facts: Facts, _: Outputs) -> Finding | None:
    # Data that has the initial statistics by itself needs no others.
    harmless = facts.departure is not None and facts.departure <= NOTICEABLE
    if not facts.initial or harmless:
        return None
    far = "" if facts.departure is None else f", which moves the layer's output by {facts.departure:.0%} of its spread"
    return Finding(
        "never-updated",
        WRONG,
        facts.layer,
        f"The moving averages are exactly what they were initialised with{far}: no training step has updated them.",
        "Load the trained weights, train, or take the statistics of data (kbn.recalibrate)."
        if facts.mode == "trains"
        else f"Load the trained weights before freezing it ({facts.mode}), or unfreeze and train it.",
    )


def stale_averages(facts: Facts, outputs: Outputs) -> Finding | None:
    if facts.initial or not facts.trains or not facts.departs:
        return None
    assert facts.departure is not None
    noticeable = facts.departure > NOTICEABLE
    if not (noticeable or _matter(outputs)):
        return None
    return Finding(
        "stale-averages",
        WRONG if noticeable and _matter(outputs) else WORTH_KNOWING,
        facts.layer,
        f"The moving averages are not the statistics of this data: the layer's output is off by {facts.departure:.1%} of its "
        f"spread, where sampling explains {facts.allowed:.1%} and one training batch makes {facts.batch_noise:.1%}; "
        f"{_effect(outputs)}.",
        "Is this data like the training data, and prepared alike? Then recalibrate (kbn.recalibrate); else give such data.",
    )


def frozen_averages_differ(facts: Facts, _: Outputs) -> Finding | None:
    if facts.initial or facts.trains or not facts.departs or (facts.departure or 0) <= NOTICEABLE:
        return None
    return Finding(
        "frozen-averages-differ",
        WORTH_KNOWING,
        facts.layer,
        f"It is frozen ({facts.mode}) with averages that are not the statistics of this data: they move its output by "
        f"{facts.departure:.0%} of its spread.",
        "Right if the weights after it were trained with these averages; else unfreeze it and recalibrate or train.",
    )


def slow_momentum(facts: Facts, outputs: Outputs) -> Finding | None:
    if facts.kept is None or facts.kept <= KEPT or facts.initial:
        return None
    assert facts.steps is not None
    assert facts.momentum is not None
    fitting = KEPT ** (1 / facts.steps)
    return Finding(
        "slow-momentum",
        WRONG if facts.departs and (facts.departure or 0) > NOTICEABLE and _matter(outputs) else WORTH_KNOWING,
        facts.layer,
        f"With momentum {facts.momentum:g}, {facts.kept:.1%} of the averages is still what they held before the "
        f"{facts.steps:,} training steps.",
        f"Train on, recalibrate, or take a momentum of {_down(fitting)} or less; kbn's debias=True leaves the start out.",
    )


def _down(momentum: float) -> str:
    """Two digits, never above the value."""
    return f"{int(momentum * 1000) / 1000:g}" if momentum >= 0.001 else "0"


def small_batch(facts: Facts, _: Outputs) -> Finding | None:
    if facts.elements is None or facts.elements >= FEW or not facts.trains or facts.corrected:
        return None
    return Finding(
        "small-batch",
        WRONG if facts.elements < TOO_FEW else WORTH_KNOWING,
        facts.layer,
        f"A training batch holds about {facts.elements:.1f} independent elements per channel: its mean errs by "
        f"{facts.elements**-0.5:.0%} of a standard deviation, and its variance falls {1 / facts.elements:.0%} short.",
        "Take larger batches, synchronized=True over replicas, renorm=True, or freeze the statistics.",
    )


def dead_channels(facts: Facts, _: Outputs) -> Finding | None:
    if not facts.dead:
        return None
    everything = facts.dead == facts.channels
    return Finding(
        "dead-channels",
        WRONG if everything else WORTH_KNOWING,
        facts.layer,
        f"{'All' if everything else facts.dead} of {facts.channels} channels are constant on this data: gamma or the variance "
        "is 0, or next to 0 beside the layer's strongest channel.",
        "Nothing passes through the layer; look at what comes before it."
        if everything
        else "They can be pruned; many of them hint at a learning rate that was too high, or at inputs that do not vary.",
    )


def epsilon_dominates(facts: Facts, _: Outputs) -> Finding | None:
    alive = facts.channels - (facts.dead or 0)
    if facts.below_epsilon is None or facts.below_epsilon * 2 <= alive:
        return None
    return Finding(
        "epsilon-dominates",
        WORTH_KNOWING,
        facts.layer,
        f"In {facts.below_epsilon} of {alive} channels that are alive, the variance is below epsilon = {facts.epsilon:g}: the "
        "layer does not bring them to unit variance.",
        "Take a smaller epsilon, or larger inputs.",
    )


def silent_relu(facts: Facts, _: Outputs) -> Finding | None:
    if not facts.silent:
        return None
    everything = facts.silent == facts.channels
    return Finding(
        "silent-relu",
        WRONG if everything else WORTH_KNOWING,
        facts.layer,
        f"In {'all' if everything else facts.silent} of {facts.channels} channels, the ReLU after the layer gives 0 for each "
        f"of {facts.examples:.0f} examples: gamma and beta keep them negative.",
        "They get no gradient any more and can be pruned; a lower learning rate leaves fewer.",
    )


def useless_bias(facts: Facts, _: Outputs) -> Finding | None:
    if not facts.bias_of:
        return None
    return Finding(
        "useless-bias",
        WORTH_KNOWING,
        facts.layer,
        f"The bias of {facts.bias_of!r} ({facts.bias_size:,} parameters) does nothing: the layer subtracts the mean, and the "
        "bias with it.",
        f"Build {facts.bias_of!r} with use_bias=False; `kbn fold` takes both into one layer.",
    )


def updates_among_frozen(facts: Facts, _: Outputs) -> Finding | None:
    if not (facts.trains and facts.frozen_before):
        return None
    return Finding(
        "updates-among-frozen",
        WORTH_KNOWING,
        facts.layer,
        f"{facts.frozen_before!r} before it is frozen, but the layer is not: fit() moves its averages, and trains what gamma "
        "and beta it has.",
        "If all of that part was to stay as it is, set `trainable = False` on the layer too.",
    )


def batches_skipped(facts: Facts, _: Outputs) -> Finding | None:
    if not facts.skipped:
        return None
    return Finding(
        "batches-skipped",
        WORTH_KNOWING,
        facts.layer,
        f"{facts.skipped:,} training batches changed no average, being empty, masked, not finite or of one element.",
        "Look for NaN in the data or a loss that diverged.",
    )


def never_trains(facts: Facts, _: Outputs) -> Finding | None:
    if facts.mode != "the model runs it in inference mode even while training":
        return None
    return Finding(
        "never-trains",
        WORTH_KNOWING,
        facts.layer,
        "The model calls it with training=False even in fit(): its averages never move, though it is not frozen.",
        "If that is meant, say so with freeze='statistics' (kbn) or trainable=False; else pass `training` on.",
    )


RULES: tuple[Rule, ...] = (
    not_finite,
    batch_statistics_in_inference,
    inference_mode_ignored,
    never_updated,
    stale_averages,
    slow_momentum,
    small_batch,
    dead_channels,
    frozen_averages_differ,
    never_trains,
    updates_among_frozen,
    silent_relu,
    epsilon_dominates,
    useless_bias,
    batches_skipped,
)


def findings(facts: Facts, outputs: Outputs) -> list[Finding]:
    """All that the rules say of one layer, in the order of the rules."""
    return [finding for rule in RULES if (finding := rule(facts, outputs)) is not None]
