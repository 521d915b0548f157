"""The model card of a checkpoint (README.md): what it is, how it was made, what was measured, what
it is not for. Its text is in card.md.j2.

All of it comes from the checkpoint's stage.json; what was not measured is not mentioned.
"""

import json

from helpers.rows.tracks import TRACKS, HubData
from helpers.run.policy_table import Table, number_text
from helpers.run.report import is_number
from helpers.run.templates import render

READS = dict(pretrain="documents", sft="demonstrations", reward="comparisons", ppo="prompts")
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


def model_card(info: dict) -> str:
    """The text of README.md for a checkpoint with this stage.json."""
    stage, config = info["stage"], info["config"]
    metrics, tables = metrics_tables(info["metrics"])
    return render(
        "card.md.j2",
        front_matter=front_matter(info),
        title=config.get("source", "GPT-2") if stage == "base" else f"{info['track']}: {stage}",
        stage=stage,
        origin=origin(info),
        settings={name: json.dumps(config[name]) for name in config if name != "rows"},
        metrics=metrics,
        tables=tables,
        embedded=config.get("source") == "embedded",
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


def data_of(info: dict) -> HubData:
    """The dataset that a stage on real rows learns from."""
    kind = "labels" if info["config"].get("pointwise") else READS[info["stage"]]
    return TRACKS[info["track"]].roles[kind].data


def base_of(info: dict) -> dict | None:
    """{"source", "revision"} of the external weights that a checkpoint descends from, or None."""
    if info["stage"] == "base":
        return {name: info["config"].get(name, "unknown") for name in ("source", "revision")}
    return (info.get("parent") or {}).get("base")


def origin(info: dict) -> list[str]:
    """Base, parent, data: one line each."""
    config, base, parent, lines = info["config"], base_of(info), info["parent"], []
    if base:
        lines.append(f"first weights: {base['source']}, revision {base['revision']}")
    if parent:
        weights = f"SHA-256 of its weights {parent['checksum']}"
        lines.append(f"trained from: stage {parent['stage']}, {weights}")
    if info["stage"] in READS and config.get("source") in ("hub", "local"):
        data = data_of(info)
        pinned = f"{data.repository}, revision {data.revision}"
        local = f"files on the maker's machine, with the columns of {pinned}"
        lines.append(f"data: {pinned if config['source'] == 'hub' else local}")
    elif config.get("source") == "embedded":
        world = f"the generated world of track {info['track']}"
        lines.append(f"data: {world}, which comes with the course")
    lines += [f"rows: {line}" for line in config.get("rows", [])]
    if info["data_fingerprint"]:
        lines.append(f"SHA-256 of the training rows: {info['data_fingerprint']}")
    versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
    return [*lines, f"tokenizer: {info['tokenizer']['name']}", f"software: {versions}"]


def metrics_tables(metrics: dict) -> tuple[list[tuple[str, str, str]], list[Table]]:
    """Name, value and unit of each metric, and the tables of policies."""
    rows, tables = [], []
    for name, value in metrics.items():
        bare = name.removesuffix("_ci95")
        if is_number(value):
            rows.append((name, cell(metrics, name), UNITS.get(name, "")))
        elif bare != name and bare not in metrics:  # of a difference, such as gold_gain_ci95
            rows.append((bare, number_text(None, value, ".4g"), ""))
        elif isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):
            columns = numbers_in(next(iter(value.values()), {}))
            body = [[policy, *(cell(row, key) for key in columns)] for policy, row in value.items()]
            tables += [(columns, body)] if columns else []
        elif isinstance(value, dict):
            rows += [(f"{name}, {key}", cell(value, key), "") for key in numbers_in(value)]
    return rows, tables


def numbers_in(metrics: dict) -> list[str]:
    """The names of the metrics that are one number."""
    return [name for name, value in metrics.items() if is_number(value)]


def cell(metrics: dict, name: str) -> str:
    """A metric in four digits, with its 95% interval if there is one."""
    value = metrics.get(name)
    return number_text(value, metrics.get(f"{name}_ci95"), "," if isinstance(value, int) else ".4g")
