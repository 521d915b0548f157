"""The doctor's rules: each reads some columns of a log and finds one ailment, or none.

The thresholds were chosen on the course of seed 100 with and without ailments, and on the healthy
logs of seeds 0 to 4 of `tldr`.
"""

import math
from collections.abc import Callable
from statistics import median, stdev

from helpers.doctor.findings import LIKELY, POSSIBLE, SURE, Finding
from helpers.doctor.logs import Log, mean_of

Rule = Callable[[Log], Finding | None]

ROUNDING = 2e-3  # of a ratio, in float32 on any device: largest |ratio - 1| in the first minibatch
DROPOUT_OFF = 0.2  # 16 bits round a log-prob of -20 by at most 0.06, dropout changes it by far more
FIRST_KL = 0.1  # nats per response, or 0.002 per token if that is more: rounding in 16 bits
LESS_SURPRISE = 0.06  # share of the entropy: three standard errors of eight healthy rollouts
GREEDY = -0.3  # the same: greedy rollouts miss 0.4 of it, a temperature of 0.7 misses 0.14
MORE_SURPRISE = 0.1  # the same upwards, where few tokens weigh much
CROWDED = 0.18  # standard deviation of the lengths as a share of the mean: a healthy SFT has 0.3
CLIPPED = 0.1  # clip fraction: the healthy runs stay below 0.05
LARGE_STD = 3  # of the scores before the first update: 1 where the reward model is normalised


def shown(value: float) -> str:
    """A number for the evidence."""
    return f"{value:.3g}"


def at(log: Log, row: int) -> str:
    """Where in the log."""
    step = log.columns["step"][row] if "step" in log.columns else math.nan
    return f"{log.called('step')} {step:.10g}" if math.isfinite(step) else f"row {row + 1}"


def with_values(log: Log) -> bool:
    """Whether a value model is trained: GRPO and RLOO have none."""
    return log.has("value_loss") or log.has("explained_variance")


# ---------------------------------------------------------------- what must hold exactly


def ratio_is_not_one(log: Log) -> Finding | None:
    """Before the first gradient step of an iteration, the policy is the one that sampled."""
    values = log.numbers("ratio_off")
    if not values or median(values) < ROUNDING:
        return None
    off = median(values)
    evidence = f"before any gradient step a ratio is off by {shown(off)} (median over iterations)"
    if off > DROPOUT_OFF:
        first = log.numbers("kl")[:1]
        kl = f"; the KL at the first step is {shown(first[0])}, not 0" if first else ""
        return Finding("dropout", SURE, evidence + kl, ("log-softmax in 16 bits",))
    return Finding("log-softmax in 16 bits", LIKELY, evidence, ("dropout",))


def kl_at_the_start(log: Log) -> Finding | None:
    """Policy and reference begin as one model, so the first KL is 0."""
    if not log.from_the_start() or not log.has("kl"):
        return None
    kl, tokens = log.columns["kl"][0], log.columns.get("length", [0.0])[0]
    if math.isnan(kl) or abs(kl) < max(FIRST_KL, 0.002 * tokens):
        return None
    evidence = f"{log.called('kl')} is {shown(kl)} at {at(log, 0)}, where it must be 0"
    unknown = () if log.has("ratio_off") else ("dropout",)
    if kl < 0:
        also = ("positions count the pads", *unknown)
        return Finding("pads attended", LIKELY, evidence + ": the policy is misread", also)
    return Finding("reference is not SFT", SURE if kl > 5 else LIKELY, evidence, unknown)


def advantages_have_a_mean(log: Log) -> Finding | None:
    """Whitened advantages have mean 0."""
    values = log.numbers("advantage")
    if not values or not log.has("explained_variance") or median(map(abs, values)) < 1e-3:
        return None
    first = log.places("advantage")[0]
    evidence = f"the mean advantage is {shown(values[0])} at {at(log, first)}; whitened, it is 0"
    return Finding("mean added back", SURE, evidence)


def returns_are_whitened(log: Log) -> Finding | None:
    """(1 - explained variance) * var(returns) is the mean square of returns - values, which are
    the advantages before whitening: it is 1 only where the returns were computed after it.
    """
    pairs = log.pairs("explained_variance", "return_std")
    squares = [(1 - explained) * std**2 for explained, std in pairs]
    if len(squares) < 2 or max(abs(x - 1) for x in squares) > 0.02:
        return None
    evidence = f"returns - values has mean square 1.00 in all {len(squares)} rows"
    return Finding("returns after whitening", SURE, evidence)


def scores_without_mean(log: Log) -> Finding | None:
    """The mean score of a rollout is not 0, up to rounding, unless nothing earns a score."""
    values = log.numbers("score")
    if len(values) < 2 or max(map(abs, values)) > 1e-4:
        return None
    if not any(values) and not any(log.numbers("score_std")):
        return None
    evidence = f"{log.called('score')} is 0 in all {len(values)} rows, whatever the policy does"
    return Finding("scores z-scored by batch", SURE, evidence)


def entropy_below_zero(log: Log) -> Finding | None:
    """An entropy is never negative."""
    values = log.numbers("entropy")
    if not values or min(values) >= 0:
        return None
    evidence = f"{log.called('entropy')} is {shown(min(values))}, and no entropy is below 0"
    return Finding("pads in the entropy", SURE, evidence)


def numbers_not_finite(log: Log) -> Finding | None:
    """NaN or infinity where there were numbers."""
    if not log.bad:
        return None
    name, row = min(log.bad.items(), key=lambda item: item[1])
    evidence = f"{log.called(name)} is no finite number at {at(log, row)}"
    return Finding("numbers not finite", SURE, evidence)


# ---------------------------------------------------------------- sampled and scored


def surprise_off(log: Log) -> tuple[float, float, int]:
    """By how much the surprise misses the entropy: as a share of it, in standard errors, and in how
    many rows.
    """
    pairs = log.pairs("entropy", "surprise")
    if len(pairs) < 3:
        return 0.0, 0.0, len(pairs)
    off = [surprise - entropy for entropy, surprise in pairs]
    error = stdev(off) / math.sqrt(len(off)) + 1e-9
    return mean_of(off) / max(1e-9, mean_of([h for h, _ in pairs])), mean_of(off) / error, len(off)


def less_surprise_than_entropy(log: Log) -> Finding | None:
    """- log pi of the sampled tokens has the entropy as its mean, if they were sampled from pi. It
    is less if they were sampled from something sharper.

    Greedy rollouts miss it by far. Where unlikely tokens are never sampled, k3 misses what they
    weigh from the first update on; other samplers show that later.
    """
    share, errors, rows = surprise_off(log)
    if share > -LESS_SURPRISE or errors > -3:
        return None
    evidence = (
        f"the sampled tokens are {-share:.0%} less surprising than the entropy says "
        f"({-errors:.0f} standard errors, {rows} rows)"
    )
    ratios = [kl / k3 for kl, k3 in log.pairs("kl", "kl_k3") if k3 > 0.1]
    names = ["temperature", "top-p", "top-k", "greedy rollouts"]
    if share < GREEDY:
        names = ["greedy rollouts", "top-k", "temperature", "top-p"]
    elif ratios and min(ratios) > 1.5:
        evidence += f"; k1 is at least {shown(min(ratios))} times k3"
        names = ["top-k", "temperature", "top-p", "greedy rollouts"]
    return Finding(names[0], LIKELY, evidence, tuple(names[1:]))


def more_surprise_than_entropy(log: Log) -> Finding | None:
    """It is more if the sampler was made to take unlikely tokens, steadily; or if they are scored
    in a wrong context, which makes a few of them very unlikely.
    """
    share, errors, rows = surprise_off(log)
    if share < MORE_SURPRISE or errors < 2.5:
        return None
    evidence = (
        f"the sampled tokens are {share:.0%} more surprising than the entropy says "
        f"({errors:.1f} standard errors, {rows} rows)"
    )
    names = ["repetition penalty", "positions count the pads", "minimum length"]
    lengths = log.pairs("length", "length_std")
    if lengths and all(std < CROWDED * length for length, std in lengths):
        evidence += f"; the lengths crowd around {shown(lengths[0][0])}"
        names.reverse()
    elif errors < 4:
        names[:2] = names[1::-1]
    return Finding(names[0], LIKELY, evidence, tuple(names[1:]))


def kl_below_zero(log: Log) -> Finding | None:
    """A KL is not negative, but its estimate is where what is scored was not sampled."""
    name = "kl" if log.has("kl") else "kl_token"
    values = log.numbers(name)
    if len(values) < 3 or log.has("surprise"):  # the surprise says more
        return None
    below = [x for x in values if x < 0]
    late = values[len(values) // 2 :]
    noise = stdev(late) / math.sqrt(len(late)) if len(late) > 1 else math.inf
    if len(below) < len(values) / 2 or not mean_of(late) < -3 * noise:
        return None
    evidence = (
        f"{log.called(name)} is below 0 in {len(below)} of {len(values)} rows, "
        f"{shown(mean_of(late))} on average in the second half"
    )
    also = ("minimum length", "top-k", "top-p", "repetition penalty", "tokens after the EOS")
    return Finding("temperature", LIKELY, evidence, also)


def length_never_changes(log: Log) -> Finding | None:
    """Responses of one length, although they stop."""
    if not log.has("length_std", "stop_rate") or mean_of(log.numbers("stop_rate")) < 0.5:
        return None
    if max(log.numbers("length_std")) > 0:
        return None
    length = [f"{x:g}" for x in log.numbers("length")[:1]] or ["the same number of"]
    evidence = (
        f"every response has {length[0]} tokens, although "
        f"{mean_of(log.numbers('stop_rate')):.0%} of them have an EOS"
    )
    return Finding("tokens after the EOS", SURE, evidence)


def nothing_stops(log: Log) -> Finding | None:
    """No response has an EOS, but they are not all as long as they may be."""
    if not log.has("stop_rate", "length") or max(log.numbers("stop_rate")) > 0:
        return None
    lengths = log.numbers("length")
    vary = max(log.numbers("length_std"), default=0) > 0 or max(lengths) > 1.02 * min(lengths)
    if not vary:
        return None
    evidence = f"no response has an EOS, yet their mean length is {shown(lengths[0])}, not the most"
    return Finding("pad is EOS", SURE, evidence)


def kl_never_falls(log: Log) -> Finding | None:
    """k1 and k3 have the same mean. While the KL is small, the absolute value of k1 is larger."""
    pairs = sorted((k3, kl / k3) for kl, k3 in log.pairs("kl", "kl_k3") if 1e-3 < k3 < 3)
    ratios = [ratio for _, ratio in pairs]  # that of the smallest KL first
    if len(ratios) < 2 or ratios[0] < 3 or min(ratios) < 1.3:
        return None
    evidence = (
        f"k1 is {shown(ratios[0])} times k3 where k3 is {shown(pairs[0][0])}, and "
        f"{shown(median(ratios))} times in the median, but both estimate one KL"
    )
    return Finding("KL made positive", LIKELY, evidence)


# ---------------------------------------------------------------- updates


def nothing_is_clipped(log: Log) -> Finding | None:
    """The first update of a rollout has ratio 1: nothing can be clipped. A few rows without a
    clipped token may just be small steps. Without a value model, as in GRPO, one update is the
    custom: TRL takes one unless `num_iterations` says otherwise.
    """
    values = log.numbers("clip_fraction")
    if len(values) < 6 or max(values) > 0 or not with_values(log):
        return None
    ratios, moved = log.numbers("ratio"), log.numbers("approx_kl")
    if any(abs(x - 1) > 1e-4 for x in ratios) or any(abs(x) > 1e-5 for x in moved):
        return None  # steps too small to be clipped, but more than one
    evidence = f"{log.called('clip_fraction')} is exactly 0 in all {len(values)} rows"
    return Finding("one update per rollout", LIKELY, evidence)


def much_is_clipped(log: Log) -> Finding | None:
    """A clip fraction of more than a few percent: the policy leaves its samples behind. The ratio
    of a whole response, as GSPO clips it, is outside its narrow limits far more often.
    """
    values = log.numbers("clip_fraction")
    early = values[: max(1, len(values) // 2)]
    if len(values) < 2 or mean_of(early) < CLIPPED:
        return None
    evidence = f"{log.called('clip_fraction')} is {mean_of(early):.0%} in the first half"
    also = () if log.has("ratio_off") else ("dropout",)
    if with_values(log):
        return Finding("too many epochs", LIKELY, evidence, also)
    evidence += "; if whole responses are clipped, as in GSPO, that is normal"
    return Finding("too many epochs", POSSIBLE, evidence, also)


def no_penalty(log: Log) -> Finding | None:
    """No KL in the reward."""
    for name in ("kl_coef", "penalty"):
        values = log.numbers(name)
        moved = any(abs(x) > 1e-3 for x in log.numbers("kl"))
        if values and not any(values) and (moved or name == "kl_coef"):
            evidence = f"{log.called(name)} is 0 in all {len(values)} rows"
            kl = log.numbers("kl")[-1:]
            return Finding(
                "no KL penalty", SURE, evidence + (f"; the KL ends at {shown(kl[0])}" if kl else "")
            )
    return None


# ---------------------------------------------------------------- scores and values


def scores_are_large(log: Log) -> Finding | None:
    """A normalised reward model gives the SFT model's samples a standard deviation of 1."""
    stds = log.numbers("score_std")
    if not log.from_the_start() or not stds or stds[0] < LARGE_STD:
        return None
    if not with_values(log):
        return None  # without a value model the advantages are normalised, not the scores
    first = log.places("score_std")[0]
    evidence = f"the scores' standard deviation is {shown(stds[0])} at {at(log, first)}, not 1"
    loss = log.numbers("value_loss")[:1]
    evidence += f"; the value loss is {shown(loss[0])}" if loss else ""
    return Finding("scores not normalised", SURE, evidence)


def values_diverge(log: Log) -> Finding | None:
    """The value loss grows many times over, or the values are far worse than a constant. A loss
    also grows where a reward that was hardly ever earned is earned more often, but then the values
    explain some of the returns.
    """
    losses = log.numbers("value_loss")
    late = losses[len(losses) // 2 :]
    explained = log.numbers("explained_variance")[2:]
    grows = len(losses) > 3 and mean_of(late) > 5 * losses[0]
    grows = grows and not (explained and median(explained) > 0)
    if not grows and not (explained and median(explained) < -1):
        return None
    evidence = []
    if losses:
        evidence += [f"the value loss goes from {shown(losses[0])} to {shown(losses[-1])}"]
    if explained:
        evidence += [f"the explained variance is {shown(median(explained))} (median)"]
    sure = LIKELY if explained else POSSIBLE
    return Finding("value rate too high", sure, "; ".join(evidence), ("scores not normalised",))


def values_explain_nothing(log: Log) -> Finding | None:
    """The explained variance stays where it began."""
    explained = log.numbers("explained_variance")
    late = explained[len(explained) // 2 :]
    if len(explained) < 6 or max(late) > 0.15:
        return None
    evidence = f"the explained variance is {shown(mean_of(late))} in the second half"
    return Finding("value model never learns", LIKELY, evidence, ("value rate too high",))


def gold_falls(log: Log) -> Finding | None:
    """The gold reward falls while the score rises."""
    rows = log.pairs("gold", "score")
    if len(rows) < 8:
        return None
    three = [rows[i : i + 3] for i in range(len(rows) - 2)]
    gold, score = ([mean_of([row[k] for row in part]) for part in three] for k in (0, 1))
    peak = max(range(len(gold)), key=gold.__getitem__)
    if gold[-1] > gold[peak] - 0.25 * (gold[peak] - gold[0]) - 0.1 or score[-1] < score[peak]:
        return None
    middle = log.places("gold", "score")[peak + 1]
    evidence = (
        f"the gold reward falls from {shown(gold[peak])} around {at(log, middle)} to "
        f"{shown(gold[-1])}, while the score goes from {shown(score[peak])} to {shown(score[-1])}"
    )
    return Finding("over-optimisation", LIKELY, evidence)


def entropy_is_gone(log: Log) -> Finding | None:
    """The entropy falls to nothing, and the score does not rise."""
    rows = log.pairs("entropy", "score")
    third = len(rows) // 3
    if third < 2:
        return None
    early, late = rows[:third], rows[-third:]
    before, after = (mean_of([h for h, _ in part]) for part in (early, late))
    gain = mean_of([s for _, s in late]) - mean_of([s for _, s in early])
    if not 0 <= after < 0.2 * before or gain > 0.1:
        return None
    evidence = f"the entropy falls from {shown(before)} to {shown(after)}; the score gains nothing"
    return Finding("entropy collapse", POSSIBLE, evidence)


RULES: tuple[Rule, ...] = (
    numbers_not_finite,
    ratio_is_not_one,
    kl_at_the_start,
    advantages_have_a_mean,
    returns_are_whitened,
    scores_without_mean,
    length_never_changes,
    nothing_stops,
    no_penalty,
    scores_are_large,
    less_surprise_than_entropy,
    more_surprise_than_entropy,
    kl_below_zero,
    kl_never_falls,
    nothing_is_clipped,
    much_is_clipped,
    values_diverge,
    values_explain_nothing,
    gold_falls,
    entropy_is_gone,
    entropy_below_zero,
)
