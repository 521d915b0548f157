"""Rows from the Hub: the same records as from a folder, and what each refusal says, without a token
in it.
"""

import json
import time

import pytest

from helpers.engine.network import redact, within
from helpers.rows.fetch import fetch
from helpers.rows.tracks import TRACKS, SourceError
from tests.support.chosen_rows import load_track
from tests.support.folder_of_rows import PAIRS, SST2, write
from tests.support.local_hub import Answering, served, serving

TOKEN = "hf_" + "Secret" * 5
LABELS = ("sentiment", "labels", "train", "hub")


def refused() -> str:
    """What the error says when the Hub is asked for labels."""
    with pytest.raises(SourceError) as error:
        load_track(*LABELS)
    assert "\n" not in str(error.value)
    # no library's error is shown with it
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return str(error.value)


def test_without_a_network_the_error_comes_soon_and_says_what_to_do():
    assert pytest.importorskip("huggingface_hub").HfApi  # loading it is not the measured wait
    started = time.perf_counter()
    message = refused()
    assert time.perf_counter() - started < 10
    assert "stanfordnlp/sst2 could not be reached" in message
    for part in ("sst2/train.jsonl", "RLHF_DATA_DIR", "RLHF_SOURCE=embedded"):
        assert part in message


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine that gives the answer it is told to; it notes the tokens that it was
    sent.
    """
    seen = {"answer": (404, {}), "tokens": []}

    class Handler(Answering):
        def answer(self, body: bytes) -> tuple[int, bytes, dict]:
            token = self.headers.get("Authorization")
            seen["tokens"].append(token)
            status, headers = seen["answer"]
            return status, json.dumps({"error": f"no, {token}"}).encode(), headers

    with serving(Handler, TOKEN, monkeypatch):
        yield seen


INVALID = {"X-Error-Message": "Invalid credentials in Authorization header"}


@pytest.mark.parametrize(
    "status, headers, reason",
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "is not on the Hub"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no longer has the pinned revision"),
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: accept its terms"),
        (401, INVALID, "refused with the token"),
        (403, {}, "refused with the token that is set here (HTTP 403)"),
        (418, {}, "HTTP 418"),
    ],
)
def test_each_answer_of_the_hub_is_told_apart_and_no_token_is_shown(
    hub, status, headers, reason, capfd, caplog
):
    hub["answer"] = status, headers
    message = refused()
    assert "stanfordnlp/sst2" in message and reason in message and "RLHF_DATA_DIR" in message
    assert hub["tokens"] == [f"Bearer {TOKEN}"]
    assert TOKEN not in message + caplog.text + "".join(capfd.readouterr())


def same_records(track: str, *kinds: str) -> None:
    """Hub and folder give the same records of these kinds."""
    for names in [(track, kind, split) for kind in kinds for split in ("train", "heldout")]:
        assert load_track(*names, "hub")[0] == load_track(*names, "local")[0]


def test_rows_of_the_hub_are_those_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    write(tmp_path / "synthetic-instruct-gptj-pairwise" / "train.jsonl", PAIRS)
    calls = served(monkeypatch, PAIRS)
    same_records("instruct", "comparisons", "prompts")
    data = TRACKS["instruct"].roles["prompts"].data
    expected = {"split": "train", "revision": data.revision, "streaming": False}
    assert calls == [("Dahoas/synthetic-instruct-gptj-pairwise", None, expected)] * 4


@pytest.mark.parametrize("size", [10**9, 100])
def test_rows_in_the_cache_are_read_without_the_hub(tmp_path, monkeypatch, size):
    """As `datasets` leaves them after a first run with a network, in one file or in several."""
    datasets = pytest.importorskip("datasets")
    from datasets.packaged_modules.json.json import Json

    data = TRACKS["sentiment"].roles["labels"].data
    for part, start in enumerate((0, 10, 20)):
        write(tmp_path / f"{part}.jsonl", SST2[start : start + 10])
    parts = {"train": [0, 1], "validation": [2]}
    paths = {split: [str(tmp_path / f"{i}.jsonl") for i in parts[split]] for split in parts}
    names = {"dataset_name": data.name, "hash": data.revision, "data_files": paths}
    builder = Json(cache_dir=str(tmp_path / "cache"), **names)
    builder.download_and_prepare(max_shard_size=size)
    [made] = (tmp_path / "cache").glob("sst2/default-*")
    home = tmp_path / "cache/stanfordnlp___sst2"
    home.mkdir()
    made.rename(home / "default")
    assert len(list(home.rglob("sst2-train*.arrow"))) == (1 if size > 100 else 2)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("helpers.rows.hub.check_hub", lambda data: pytest.fail("asked the Hub"))
    records, report = load_track(*LABELS)
    assert report.read == report.used == 20 and report.place == f"hub: {data.repository}"
    write(tmp_path / "rows/sst2/train.jsonl", SST2[:20])
    write(tmp_path / "rows/sst2/validation.jsonl", SST2[20:])
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path / "rows"))
    assert records == load_track("sentiment", "labels", "train", "local")[0]


def test_offline_mode_without_cached_rows_says_so(monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not in the cache of `datasets`, and HF_HUB_OFFLINE forbids" in refused()


def test_a_split_of_the_hub_is_read_whole(monkeypatch):
    calls = served(monkeypatch, {"train": SST2[:20], "validation": SST2[20:]})
    assert len(load_track("sentiment", "labels", "heldout", "hub")[0]) == 10
    assert len(load_track(*LABELS)[0]) == 20
    assert [options["split"] for *_, options in calls] == ["validation", "train", "validation"]


def test_what_the_hub_holds_out_is_not_learned_from(monkeypatch):
    """Also where a data set repeats a row of its held-out split: it is counted, and not learned
    from.
    """
    again = {"sentence": SST2[25]["sentence"].upper() + " ", "label": 1}
    served(monkeypatch, {"train": [*SST2[:20], again], "validation": SST2[20:]})
    records, report = load_track(*LABELS)
    assert len(records) == 20 and report.left_out == {"held out for measuring": 1}


def test_fetched_rows_are_those_of_the_hub(tmp_path, monkeypatch):
    """What one machine fetches, another without a network reads: the same records."""
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    served(monkeypatch, {"train": [{"text": f"Text {i} 🙂.", "score": 3.0} for i in range(90)]})
    with pytest.raises(SourceError, match="stanfordnlp/sst2 has no column sentence"):
        list(fetch("sentiment", tmp_path, documents=50))
    files = [path.name for path in tmp_path.rglob("*.*")]
    assert files == ["train.jsonl.gz"], "the first data set is complete"
    names = "sentiment", "documents", "train"
    records, _ = load_track(*names, "local")
    assert records == load_track(*names, "hub", limit=len(records))[0]
    train = [row | {"idx": i} for i, row in enumerate(SST2[:20])]
    calls = served(monkeypatch, {"train": train, "validation": SST2[20:]})
    lines = [line.split(": ")[1] for line in fetch("sentiment", tmp_path, documents=50)]
    numbers = [f"{number} rows of stanfordnlp/sst2" for number in (20, 10)]
    assert lines == ["is there", *numbers]
    assert [options["split"] for *_, options in calls] == ["train", "validation"]
    same_records("sentiment", "labels", "demonstrations")


def test_a_column_that_the_hub_renamed_and_an_error_while_reading(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served(monkeypatch, [{"text": "a", "label": 1}])
    assert "stanfordnlp/sst2 has no column sentence" in refused()
    served(monkeypatch, OSError(f"bad\nheader Bearer {TOKEN}"))
    message = refused()
    assert "could not be read, split 'train' (OSError: bad header Bearer ***)" in message
    assert "Secret" not in message


def test_waiting_ends_and_tokens_are_hidden(monkeypatch):
    started = time.perf_counter()
    with pytest.raises(TimeoutError, match="no answer within 0.1 seconds"):
        within(0.1, lambda: time.sleep(5))
    assert time.perf_counter() - started < 2 and within(5, lambda: 7) == 7
    monkeypatch.setenv("HF_TOKEN", "plain-secret")
    assert redact("a plain-secret\n and hf_AbC123 " + "x" * 999).startswith("a *** and *** xxx")
    assert len(redact("x" * 999)) == 200
