"""The base model that 1-SFT starts from: the learner's own, or external weights (`init`)."""

from pathlib import Path

from helpers.model import GPT
from helpers.run.checkpoints import CheckpointError, load_stage, read_info
from helpers.run.course import PRETRAINED, Course
from helpers.run.import_weights import (
    GELU,
    WeightsError,
    find_weights,
    load_external,
    local_path,
    save_base,
    weights_sha256,
)
from helpers.run.settings import data_folder

LATER = ("reward", "ppo")  # the stages that take the base model as 1-SFT left it


def load_base(course: Course) -> tuple[GPT, dict]:
    """The base model and the contents of its stage.json.

    External weights are imported once, by 1-SFT, as a checkpoint of stage "base", which records
    where they are from. Raises CheckpointError, WeightsError.
    """
    run = {"track": course.track, "tokenizer": course.tokenizer, "device": course.device}
    if course.init == PRETRAINED:
        return load_stage(course.base_folder, stage="pretrain", **run)
    if course.stage in LATER:
        return load_stage(course.base_folder, stage="base", **run)
    try:
        model, info = load_stage(course.base_folder, stage="base", **run)
        if matches(info["config"], course.init, data_folder(course.settings)):
            return model, info
    except CheckpointError:
        pass  # not imported yet, damaged, or made with another tokenizer: import (again)
    import_base(course)
    return load_stage(course.base_folder, stage="base", **run)


def import_base(course: Course) -> None:
    """Import the weights that `course.init` names. Raises WeightsError when they don't fit."""
    path, origin = find_weights(course.init, data_folder(course.settings))
    model = load_external(path, course.tokenizer)
    if path.is_file():
        print(GELU)
    longest = course.limits().context
    if model.config.context < longest:
        raise WeightsError(
            f"{origin['source']} reads at most {model.config.context} tokens, but preset "
            f"{course.preset} has rows of up to {longest}: take other weights or another preset"
        )
    origin = {"init": course.init_name, **origin}
    save_base(course.base_folder, model, course.tokenizer, course.track, origin)


def matches(config: dict, init: str, data_dir: Path | None) -> bool:
    """Whether a checkpoint of stage "base" with these settings was made from what `init` names."""
    revision = local_revision(init, data_dir)
    return config.get("revision") == revision if revision else config.get("init") == init


def local_revision(init: str, data_dir: Path | None) -> str:
    """The revision that an import records of weights on this machine; "" if they are not here."""
    path = local_path(init, data_dir)
    return f"sha256:{weights_sha256(path)}" if path is not None and path.exists() else ""


def check_base(course: Course) -> None:
    """Raise CheckpointError, naming both, when a stage after 1-SFT asks for another base model than
    1-SFT started from, or needs one that is gone.
    """
    folder, base, data_dir = course.folder("sft"), course.base_folder, data_folder(course.settings)
    parent = read_info(folder)["parent"] if course.stage in LATER and folder.exists() else None
    if parent is None:
        return
    from_elsewhere, there = course.init != PRETRAINED, base.exists()
    other = parent["stage"] != base.name
    if not other and from_elsewhere and there:
        config = read_info(base)["config"] | parent.get("base", {})
        other = not matches(config, course.init, data_dir)
    if other:
        revision = local_revision(course.init, data_dir) if from_elsewhere else ""
        wrong = f"this run asks for {named(course.init_name, revision)}: name the same (RLHF_INIT)"
    elif not there and (course.stage == "ppo" or course.source != "embedded"):
        wrong = f"there is no {base}: restore it"
    else:
        return
    first = parent.get("base", {"source": PRETRAINED, "revision": parent["checksum"]})
    was = named(first["source"], first["revision"])
    raise CheckpointError(f"{folder} was trained from {was}, but {wrong}, or run 1-SFT.ipynb again")


def named(source: str, revision: str) -> str:
    """Weights in a message: where they are from and, if known, the start of their revision."""
    short = revision.removeprefix("sha256:")[:8]
    return f"{source} ({short})" if short else source
