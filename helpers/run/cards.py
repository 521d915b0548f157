"""The model card of a checkpoint (README.md): what it is, what made it, what was measured, what it
is not for.

Everything in it is from the checkpoint's stage.json; what was not measured is not said.
"""

import json
from numbers import Real

from helpers.rows.tracks import TRACKS

WHAT = {
    "base": "GPT-2 weights from elsewhere, in the form that the course reads. Nothing in them was "
    "trained here.",
    "pretrain": "A small GPT-2, trained from random weights on documents. It continues a text.",
    "sft": "A GPT-2 that was fine-tuned on demonstrations: it completes a prompt of one form, and "
    "then ends.",
    "reward": "A GPT-2 with a head that gives a text one score: higher is what the labels of its "
    "data prefer.",
    "ppo": "A GPT-2 that was fine-tuned on demonstrations, then with PPO against a reward model.",
}
READS = {
    "pretrain": "documents",
    "sft": "demonstrations",
    "reward": "comparisons",
    "ppo": "prompts",
}
UNITS = {  # of a metric, where the name does not say it
    "heldout_loss": "nats a token",
    "entropy_floor": "nats a token, the least that is possible",
    "words": "a response",
    "kl": "nats a response, from the SFT model",
    "score": "standard deviations of the SFT model's samples",
    "perplexity": "under the SFT model",
    "accuracy": "of held-out rows",
    "bayes_accuracy": "the most that is possible",
    "stop_rate": "of responses that end by themselves",
    "judge": "mean probability, by a classifier apart",
    "gold_reward": "by the rules of the generated world",
}
LIMITS = """\
- It was trained to show how such models are made. It is small, invents facts and repeats its data.
- It is for study and experiments, not for advice, decisions about people or unattended use.
- Nobody examined it for harmful or biased text. Its data are English.
- The numbers above are of one run with one seed; intervals are over held-out rows, not over runs.
"""
WORLD = "- It knows a small generated world and its few words, and nothing else.\n"
OPTIMISED = (
    "- PPO raised the score of one reward model. A higher score is no proof of a better text: "
    "read the score together\n"
    "  with the KL, and with the measures that PPO did not see.\n"
)


def model_card(info: dict) -> str:
    """The text of README.md for a checkpoint with this stage.json."""
    stage, track, config = info["stage"], info["track"], info["config"]
    embedded = config.get("source") == "embedded"
    limits = LIMITS + WORLD * embedded + OPTIMISED * (stage == "ppo")
    title = f"# {track}: {stage}" if stage != "base" else f"# {config.get('source', 'GPT-2')}"
    return "\n".join(
        [
            front_matter(info),
            title,
            "",
            WHAT[stage],
            "",
            "Made with the course *RLHF from scratch, in four notebooks*. Numbers and settings "
            "are those of `stage.json`.",
            "",
            "## Where it is from",
            "",
            *origin(info),
            "",
            *settings_table(config),
            *metrics_tables(info["metrics"]),
            "## Limits",
            "",
            limits,
        ]
    )


def front_matter(info: dict) -> str:
    """The YAML that the Hub reads."""
    stage, config, base = info["stage"], info["config"], base_of(info)
    mit = config.get("source") == "embedded" and base is None
    lines = [
        "---",
        "language: en",
        "library_name: transformers",
        f"license: {'mit' if mit else 'other'}",
    ]
    if not mit:
        lines.append("license_name: of-its-data-and-base")
    lines.append(
        f"pipeline_tag: {'text-classification' if stage == 'reward' else 'text-generation'}"
    )
    lines += ["tags:", "- gpt2", "- rlhf", f"- {stage}"]
    if base and not base["revision"].startswith("sha256:"):  # from the Hub
        lines += [f"base_model: {base['source']}"]
    if config.get("source") == "hub" and stage in READS:
        lines += ["datasets:", f"- {data_of(info).repository}"]
    return "\n".join([*lines, "---", ""])


def data_of(info: dict):
    """The data set (`helpers.rows.tracks.HubData`) that a stage on real rows learns from."""
    kind = "labels" if info["config"].get("pointwise") else READS[info["stage"]]
    return TRACKS[info["track"]].roles[kind].data


def base_of(info: dict) -> dict | None:
    """{"source", "revision"} of weights from elsewhere that a checkpoint goes back to; None for the
    learner's own.
    """
    if info["stage"] == "base":
        return {name: info["config"].get(name, "unknown") for name in ("source", "revision")}
    return (info.get("parent") or {}).get("base")


def origin(info: dict) -> list[str]:
    """Base, parent, data: one line each."""
    config, base, parent, lines = info["config"], base_of(info), info["parent"], []
    if base:
        lines.append(f"- first weights: {base['source']}, revision {base['revision']}")
    if parent:
        lines.append(
            f"- trained from: stage {parent['stage']}, sha256 of its weights {parent['checksum']}"
        )
    if info["stage"] in READS and config.get("source") in ("hub", "local"):
        data = data_of(info)
        pinned = f"{data.repository}, revision {data.revision}"
        lines.append(
            f"- data: {pinned}"
            if config["source"] == "hub"
            else f"- data: files on the maker's machine, with the columns of {pinned}"
        )
    elif config.get("source") == "embedded":
        lines.append(
            f"- data: the generated world of track {info['track']}, which comes with the course"
        )
    lines += [f"- rows: {line}" for line in config.get("rows", [])]
    if info["data_fingerprint"]:
        lines.append(f"- sha256 of the training rows: {info['data_fingerprint']}")
    versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
    return [*lines, f"- tokenizer: {info['tokenizer']['name']}", f"- software: {versions}"]


def settings_table(config: dict) -> list[str]:
    """The settings as lines of a table."""
    rows = [f"| {name} | {json.dumps(value)} |" for name, value in config.items() if name != "rows"]
    return ["## Settings", "", "| setting | value |", "|---|---|", *rows, ""] if rows else []


def metrics_tables(metrics: dict) -> list[str]:
    """What was measured, with 95% intervals where there are any; the policies side by side in a
    table of their own.
    """
    rows, tables = [], []
    for name, value in metrics.items():
        if name.endswith("_ci95") and name.removesuffix("_ci95") in metrics:
            continue
        if isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
            tables += policies_table(value)
        elif isinstance(value, dict):
            rows += [
                f"| {name}, {key} | {number(item)} | | |"
                for key, item in value.items()
                if is_number(item)
            ]
        elif name.endswith("_ci95"):
            rows.append(f"| {name.removesuffix('_ci95')} | | {interval(value)} | |")
        elif is_number(value):
            bounds = interval(metrics.get(f"{name}_ci95"))
            rows.append(f"| {name} | {number(value)} | {bounds} | {UNITS.get(name, '')} |")
    if not rows and not tables:
        return ["## Measured", "", "Nothing.", ""]
    head = ["| | value | 95% interval | |", "|---|---|---|---|"] if rows else []
    return ["## Measured", "", *head, *rows, "", *tables]


def policies_table(table: dict[str, dict]) -> list[str]:
    """One row a policy: {policy: {metric: value}}."""
    names = [name for name, value in next(iter(table.values()), {}).items() if is_number(value)]
    if not names:
        return []
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for policy, row in table.items():
        cells = [
            f"{number(row.get(name))} {brackets(row.get(f'{name}_ci95'))}".strip() for name in names
        ]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return [*lines, "", "In brackets: 95% intervals.", ""]


def is_number(value) -> bool:
    """Whether a value is one number."""
    return isinstance(value, Real) and not isinstance(value, bool)


def number(value) -> str:
    """A number in four digits; nothing for None."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def interval(bounds) -> str:
    """Two bounds; nothing where there are none."""
    return "" if bounds is None else f"{number(bounds[0])} to {number(bounds[1])}"


def brackets(bounds) -> str:
    """The same in brackets."""
    return f"[{interval(bounds)}]" if bounds else ""
