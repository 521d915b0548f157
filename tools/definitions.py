"""Taught definitions: the text of a name in helpers/, and whether a notebook's cell still says the
same.
"""

import ast
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

# What must be taught, in exactly one notebook: every public function and class of these modules,
# but for the names listed with a module (helpers of the command line, bookkeeping). ONLY: of these
# modules just the listed names.
TAUGHT: dict[str, set[str]] = {
    "helpers/model.py": set(),
    "helpers/generation.py": set(),
    "helpers/losses.py": set(),
    "helpers/muon.py": set(),
    "helpers/lora.py": {"plain_linear", "lora_layers"},
    "helpers/quantization.py": {"is_quantized", "memory_bytes", "nf4_bytes"},
}
ONLY: dict[str, set[str]] = {
    "helpers/engine/distributed.py": {"add_gradients"},
    "helpers/batching.py": {"batch_plan"},
    "helpers/training.py": {"schedule", "adamw_and_muon", "Optimizers"},
    "helpers/evaluation.py": {"entropy_floor", "respond", "bootstrap_ci95"},
    "helpers/pretrain.py": {
        "next_token_loss",
        "sinusoidal_start",
        "document_batches",
        "heldout_loss",
        "token_counts",
        "train",
    },
    "helpers/sft.py": {
        "encode_demonstration",
        "completion_masks",
        "completion_nll",
        "demonstration_batches",
        "heldout_completion_loss",
        "completion_counts",
        "train",
    },
    "helpers/reward.py": {
        "Pair",
        "Text",
        "text_batch",
        "texts_of",
        "heads_and_logprobs",
        "PairBatch",
        "pair_batch",
        "score_pairs",
        "reward_loss",
        "comparison_batches",
        "train",
        "margins",
        "accuracy",
        "bayes_accuracy",
        "normalise_on",
        "label_loss",
        "label_batches",
        "train_on_labels",
    },
    "helpers/rollouts.py": {
        "Models",
        "Batch",
        "Rollout",
        "response_logits",
        "response_values",
        "collect",
        "with_advantages",
        "rollout_metrics",
        "mean_kl",
    },
    "helpers/ppo.py": {
        "KLController",
        "minibatch_losses",
        "check_first_minibatch",
        "Training",
        "start_training",
        "choose_prompts",
        "minibatches",
        "train",
        "iteration_metrics",
    },
}

# names that each notebook defines in its own way: the stage's training loop
SHARED = {"train", "train_draft"}


@lru_cache(maxsize=64)
def _read(path: Path, stamp: float) -> tuple[str, dict[str, ast.stmt]]:
    text = path.read_text(encoding="utf-8")
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(text).body:
        for name in names_of(node):
            found[name] = node
    return text, found


def names_of(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines: a function, a class or a constant."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]


def module(root: Path, name: str) -> tuple[str, dict[str, ast.stmt]]:
    """(text, {name: top-level statement}) of a file below root, such as "helpers/losses.py"."""
    path = root / name
    if not path.is_file():
        raise LookupError(f"there is no {name}")
    return _read(path, path.stat().st_mtime_ns)


def references(source: str) -> tuple[str, list[str]]:
    """("helpers/losses.py", ["kl_k1", "kl_k2"]) from "helpers/losses.py::kl_k1,kl_k2"."""
    file, _, names = source.partition("::")
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise LookupError(f"source {source!r} is not of the form helpers/losses.py::gae")
    return file, listed


def definition(root: Path, source: str) -> str:
    """The exact text of the named definitions, decorators included. LookupError if one is
    missing.
    """
    file, names = references(source)
    text, found = module(root, file)
    lines = text.splitlines()
    parts = []
    for name in names:
        if name not in found:
            raise LookupError(f"{file} has no top-level {name}")
        node = found[name]
        first = min(
            [node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]
        )
        parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n\n\n".join(parts)


def same(cell: str, text: str) -> bool:
    """Do two pieces of code mean the same? Comments and layout may differ."""
    try:
        return ast.dump(ast.parse(cell)) == ast.dump(ast.parse(text))
    except SyntaxError:
        return False


def public(root: Path, file: str) -> set[str]:
    """The public functions and classes of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        name
        for name, node in module(root, file)[1].items()
        if isinstance(node, kinds) and name[0] != "_"
    }


def defined(source: str) -> set[str]:
    """Top-level functions and classes that a cell defines itself; magics and shell lines don't
    hinder.
    """
    lines = [
        "pass" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()
    ]
    try:
        body = ast.parse("\n".join(lines)).body
    except SyntaxError:
        return set()
    return {
        node.name
        for node in body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }


def coverage(root: Path, notebooks: dict[str, Any]) -> list[str]:
    """What is wrong between the notebooks ({name: notebook}) and helpers/ as a whole, one line
    each.

    A name taught in two places, a taught module's public name that is taught nowhere, a name that
    two notebooks define (exercises aside).
    """
    taught: dict[str, list[str]] = defaultdict(list)  # "helpers/losses.py::gae": where
    own: dict[str, set[str]] = defaultdict(set)  # name: notebooks that define it
    for notebook, content in notebooks.items():
        for cell in content.cells:
            source = cell.metadata.get("source") if cell.cell_type == "code" else None
            if source and "::" in source:
                file, names = references(source)
                for name in names:
                    taught[f"{file}::{name}"].append(notebook)
                    own[name].add(notebook)
            elif cell.cell_type == "code" and "exercise" not in cell.metadata.get("tags", []):
                for name in defined(cell.source):
                    own[name].add(notebook)
    problems = [
        f"{name} is taught {len(places)} times: {', '.join(places)}"
        for name, places in taught.items()
        if len(places) > 1
    ]
    problems += [
        f"{name} is defined in {' and '.join(sorted(places))}: import it, or give one another name"
        for name, places in sorted(own.items())
        if len(places) > 1 and name[0] != "_" and name not in SHARED
    ]
    for file in [*TAUGHT, *ONLY]:
        try:
            wanted = public(root, file) - TAUGHT[file] if file in TAUGHT else ONLY[file]
            unknown = (TAUGHT.get(file) or ONLY.get(file) or set()) - public(root, file)
        except LookupError as error:
            problems.append(str(error))
            continue
        problems += [
            f"tools/definitions.py lists {file}::{name}, which is not there"
            for name in sorted(unknown)
        ]
        problems += [
            f"{file}::{name} is taught in no notebook"
            for name in sorted(wanted)
            if f"{file}::{name}" not in taught
        ]
    return problems
