"""The base model that 1-SFT starts from: the learner's own, or weights from elsewhere (`init`,
RLHF_INIT).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.files import sha256
from helpers.model import GPT
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.run.checkpoints import CheckpointError, load_stage, save_stage
from helpers.run.import_weights import WeightsError, find_weights, load_foreign, weights_file
from helpers.tokenizer import Tokenizer

if TYPE_CHECKING:  # only to name it: environment imports this module
    from helpers.run.setup import Course

OWN = "pretrain"  # the init that means the checkpoint of 0-Pretrain


def base_folder(course: "Course") -> Path:
    """Where the base model is kept: 0-Pretrain's checkpoint, or checkpoints/base for weights from
    elsewhere.
    """
    return course.folder("pretrain") if course.init == OWN else course.out / "checkpoints" / "base"


def base_tokenizer(init: str) -> Tokenizer:
    """The tokenizer that goes with weights from elsewhere: a course checkpoint's own, or else
    GPT-2's.
    """
    folder = Path(init).expanduser()
    return (
        Tokenizer(folder / "tokenizer.json")
        if (folder / "stage.json").is_file()
        else load_gpt2_tokenizer()
    )


def load_base(course: "Course") -> tuple[GPT, dict]:
    """The base model and the contents of its stage.json.

    Weights from elsewhere are read once and kept as a checkpoint of stage "base", which says where
    they are from. Raises CheckpointError, WeightsError.
    """
    asked = {"track": course.track, "tokenizer": course.tokenizer, "device": course.device}
    if course.init == OWN:
        return load_stage(base_folder(course), stage="pretrain", **asked)
    try:
        model, info = load_stage(base_folder(course), stage="base", **asked)
        if is_kept(info["config"], course.init):
            return model, info
    except CheckpointError:
        pass  # not read yet, damaged, or made with another tokenizer: read it (again)
    keep_base(course)
    return load_stage(base_folder(course), stage="base", **asked)


def keep_base(course: "Course") -> None:
    """Read the weights that `course.init` names and write the checkpoint. Raises WeightsError when
    they don't fit.
    """
    path, came_from = find_weights(course.init)
    model = load_foreign(path, course.tokenizer)
    longest = course.limits().context
    if model.config.context < longest:
        raise WeightsError(
            f"{came_from['source']} reads at most {model.config.context} tokens, but preset "
            f"{course.preset} has rows of up to {longest}: take other weights or another preset"
        )
    config = {"init": course.init_name, **came_from}
    save_stage(
        base_folder(course),
        model,
        course.tokenizer,
        stage="base",
        track=course.track,
        config=config,
        metrics={},
        parent=None,
        data_fingerprint="",
    )


def is_kept(config: dict, init: str) -> bool:
    """Whether a checkpoint of stage "base" with these settings was made from what `init` names."""
    path = Path(init).expanduser()
    if path.exists():
        return config["revision"] == f"sha256:{sha256(weights_file(path))}"
    return config["init"] == init
