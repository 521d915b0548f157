"""The base model that 1-SFT starts from: the learner's own, or weights from elsewhere (`init`)."""

from pathlib import Path

from helpers.engine.files import sha256
from helpers.model import GPT
from helpers.run.checkpoints import CheckpointError, load_stage, save_stage
from helpers.run.import_weights import WeightsError, find_weights, load_foreign, weights_file
from helpers.run.setup import PRETRAINED, Course


def load_base(course: Course) -> tuple[GPT, dict]:
    """The base model and the contents of its stage.json.

    Weights from elsewhere are read once and kept as a checkpoint of stage "base", which says where
    they are from. Raises CheckpointError, WeightsError.
    """
    asked = {"track": course.track, "tokenizer": course.tokenizer, "device": course.device}
    if course.init == PRETRAINED:
        return load_stage(course.base_folder, stage="pretrain", **asked)
    try:
        model, info = load_stage(course.base_folder, stage="base", **asked)
        if matches(info["config"], course.init):
            return model, info
    except CheckpointError:
        pass  # not read yet, damaged, or made with another tokenizer: read it (again)
    save_base(course)
    return load_stage(course.base_folder, stage="base", **asked)


def save_base(course: Course) -> None:
    """Read the weights that `course.init` names and write the checkpoint. Raises WeightsError when
    they don't fit.
    """
    path, came_from = find_weights(course.init, course.data_dir)
    model = load_foreign(path, course.tokenizer)
    longest = course.limits().context
    if model.config.context < longest:
        raise WeightsError(
            f"{came_from['source']} reads at most {model.config.context} tokens, but preset "
            f"{course.preset} has rows of up to {longest}: take other weights or another preset"
        )
    config = {"init": course.init_name, **came_from}
    save_stage(
        course.base_folder,
        model,
        course.tokenizer,
        stage="base",
        track=course.track,
        config=config,
        metrics={},
        parent=None,
        data_fingerprint="",
    )


def matches(config: dict, init: str) -> bool:
    """Whether a checkpoint of stage "base" with these settings was made from what `init` names."""
    path = Path(init).expanduser()
    if path.exists():
        return config["revision"] == f"sha256:{sha256(weights_file(path))}"
    return config["init"] == init
