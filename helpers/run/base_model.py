"""The base model that 1-SFT starts from: the learner's own, or external weights (`init`)."""

from pathlib import Path

from helpers.model import GPT
from helpers.run.checkpoints import CheckpointError, load_stage
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


def load_base(course: Course) -> tuple[GPT, dict]:
    """The base model and the contents of its stage.json.

    External weights are imported once, as a checkpoint of stage "base", which records where they
    are from. Raises CheckpointError, WeightsError.
    """
    run = {"track": course.track, "tokenizer": course.tokenizer, "device": course.device}
    if course.init == PRETRAINED:
        return load_stage(course.base_folder, stage="pretrain", **run)
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
    path = local_path(init, data_dir)
    if path is not None and path.exists():
        return config.get("revision") == f"sha256:{weights_sha256(path)}"
    return config.get("init") == init
