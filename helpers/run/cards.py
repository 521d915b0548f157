"""The model card of a checkpoint (README.md): what it is, how it was made, what was measured, what
it is not for.

All of it comes from the checkpoint's stage.json; what was not measured is not mentioned.
"""

import json
from numbers import Real

from helpers.rows.tracks import TRACKS
from helpers.run.policy_table import number_text

WHAT = {
    "base": "GPT-2 weights from elsewhere, in the format that the course reads. Nothing in them "
    "was trained here.",
    "pretrain": "A small GPT-2, trained from random weights on documents. It continues a text.",
    "sft": "A GPT-2 that was fine-tuned on demonstrations: it completes prompts of one form, then "
    "stops.",
    "reward": "A GPT-2 with a head that gives each text one score: the higher, the more the labels "
    "of its data prefer it.",
    "ppo": "A GPT-2 that was fine-tuned on demonstrations, then with PPO against a reward model.",
}
READS = {
    "pretrain": "documents",
    "sft": "demonstrations",
    "reward": "comparisons",
    "ppo": "prompts",
}
UNITS = {  # of a metric whose name does not tell
    "heldout_loss": "nats per token",
    "entropy_floor": "nats per token, the least that is possible",
    "words": "a response",
    "kl": "nats per response, from the SFT model",
    "score": "standard deviations of the SFT model's samples",
    "perplexity": "under the SFT model",
    "accuracy": "of held-out rows",
    "bayes_accuracy": "the most that is possible",
    "stop_rate": "of responses that end by themselves",
    "judge": "mean probability, by a separate classifier",
    "gold_reward": "by the rules of the generated world",
}
LIMITS = """\
- It was trained to show how such models are made. It is small, invents facts and repeats its data.
- It is for study and experiments, not for advice, decisions about people or unattended use.
- Nobody has examined it for harmful or biased text. Its data are English.
- The numbers above come from one run with one seed; intervals are over held-out rows, not runs.
"""
WORLD = "- It knows a small generated world and its few words, and nothing else.\n"
OPTIMISED = (
    "- PPO raised the score of one reward model. A higher score does not prove a better text: read "
    "it together with\n  the KL and with the measures that PPO did not see.\n"
)
CARD = """\
---
{front_matter}
---

# {title}

{what}

Made with the course *RLHF from scratch, in four notebooks*. Numbers and settings are those of
`stage.json`.

## Origin

{origin}

{settings}## Measured

{measured}
## Limits

{limits}
"""


def model_card(info: dict) -> str:
    """The text of README.md for a checkpoint with this stage.json."""
    stage, track, config = info["stage"], info["track"], info["config"]
    limits = LIMITS + WORLD * (config.get("source") == "embedded") + OPTIMISED * (stage == "ppo")
    return CARD.format(
        front_matter=front_matter(info),
        title=config.get("source", "GPT-2") if stage == "base" else f"{track}: {stage}",
        what=WHAT[stage],
        origin="\n".join(origin(info)),
        settings=settings_table(config),
        measured="\n".join(metrics_tables(info["metrics"])) or "Nothing.\n",
        limits=limits,
    )


def front_matter(info: dict) -> str:
    """The YAML that the Hub reads."""
    from huggingface_hub import ModelCardData  # imported here: only saving a checkpoint needs it

    stage, config, base = info["stage"], info["config"], base_of(info)
    ours = config.get("source") == "embedded" and base is None
    from_hub = base is not None and not base["revision"].startswith("sha256:")
    on_hub = config.get("source") == "hub" and stage in READS
    return ModelCardData(
        language="en",
        library_name="transformers",
        license="mit" if ours else "other",
        license_name=None if ours else "of-its-data-and-base",
        pipeline_tag="text-classification" if stage == "reward" else "text-generation",
        tags=["gpt2", "rlhf", stage],
        base_model=base["source"] if from_hub else None,
        datasets=[data_of(info).repository] if on_hub else None,
    ).to_yaml()


def data_of(info: dict):
    """The dataset (`helpers.rows.tracks.HubData`) that a stage on real rows learns from."""
    kind = "labels" if info["config"].get("pointwise") else READS[info["stage"]]
    return TRACKS[info["track"]].roles[kind].data


def base_of(info: dict) -> dict | None:
    """{"source", "revision"} of the foreign weights that a checkpoint descends from; None if it
    descends from none.
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
            f"- trained from: stage {parent['stage']}, SHA-256 of its weights {parent['checksum']}"
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
        lines.append(f"- SHA-256 of the training rows: {info['data_fingerprint']}")
    versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
    return [*lines, f"- tokenizer: {info['tokenizer']['name']}", f"- software: {versions}"]


def settings_table(config: dict) -> str:
    """The settings as a section with a table; nothing where there are none."""
    rows = [
        f"| {name} | {json.dumps(value)} |\n" for name, value in config.items() if name != "rows"
    ]
    return f"## Settings\n\n| setting | value |\n|---|---|\n{''.join(rows)}\n" if rows else ""


def metrics_tables(metrics: dict) -> list[str]:
    """The lines of the tables of what was measured; the policies have a table of their own."""
    rows, tables = [], []
    for name, value in metrics.items():
        bare = name.removesuffix("_ci95")
        if bare != name:
            if bare not in metrics:  # an interval of a difference, such as gold_gain_ci95
                rows.append(f"| {bare} | {number_text(None, value, '.4g')} | |")
        elif isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
            tables += policies_table(value)
        elif isinstance(value, dict):
            rows += [
                f"| {name}, {key} | {cell(value, key)} | |"
                for key in value
                if is_number(value[key])
            ]
        elif is_number(value):
            rows.append(f"| {name} | {cell(metrics, name)} | {UNITS.get(name, '')} |")
    head = ["| | value [95% interval] | |", "|---|---|---|"] if rows else []
    return [*head, *rows, "", *tables] if rows or tables else []


def policies_table(table: dict[str, dict]) -> list[str]:
    """One row a policy: {policy: {metric: value}}."""
    names = [name for name, value in next(iter(table.values()), {}).items() if is_number(value)]
    if not names:
        return []
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for policy, row in table.items():
        lines.append(f"| {policy} | {' | '.join(cell(row, name) for name in names)} |")
    return [*lines, "", "In brackets: 95% intervals.", ""]


def is_number(value) -> bool:
    """Whether a value is one number."""
    return isinstance(value, Real) and not isinstance(value, bool)


def cell(metrics: dict, name: str) -> str:
    """A metric in four digits, with its 95% interval if there is one."""
    value = metrics.get(name)
    return number_text(value, metrics.get(f"{name}_ci95"), "," if isinstance(value, int) else ".4g")
