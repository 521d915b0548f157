"""Publishing: what arrives at the Hub, what each refusal says, and that no token is ever shown or
kept.
"""

import base64
import json
import time
from http.server import BaseHTTPRequestHandler

import pytest

from helpers.model import GPT, GPTConfig
from helpers.rows.embedded import load_tokenizer
from helpers.run import publish
from helpers.run.checkpoints import CheckpointError
from helpers.run.publish import PublishError, push
from helpers.stages.adapters import load_lora, take_adapters
from tests.support.adapted import adapted, tiny
from tests.support.local_hub import serving
from tests.support.saved import save

TOKEN = "hf_" + "Secret" * 5


@pytest.fixture
def folder(tmp_path):
    tokenizer = load_tokenizer("tldr")
    model = GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 16))
    save(tmp_path / "ppo", model, tokenizer, "ppo", config={"source": "embedded"})
    (tmp_path / "ppo" / "notes.txt").write_text("mine, not the checkpoint's")
    return tmp_path / "ppo"


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine that takes every file, or gives the answer it is told to."""
    seen = {"answer": None, "tokens": set(), "created": [], "files": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen["tokens"].add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = seen["answer"] or (200, self.agree(body))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def agree(self, body: bytes) -> dict:
            address = f"http://{self.headers['Host']}/someone/tiny"
            if self.path.endswith("/repos/create"):
                seen["created"].append(json.loads(body))
                return {"url": address, "id": "someone/tiny", "name": "someone/tiny"}
            if "/preupload/" in self.path:
                kind = {"uploadMode": "regular", "shouldIgnore": False}
                return {"files": [{"path": f["path"], **kind} for f in json.loads(body)["files"]]}
            if "/commit/" in self.path:
                lines = [line["value"] for line in map(json.loads, body.splitlines())]
                files = [value for value in lines if "path" in value]
                seen["files"] |= {f["path"]: base64.b64decode(f["content"]) for f in files}
            commit = {"commitUrl": f"{address}/commit/1", "commitOid": "1"}
            return commit | {"sha": "1", "id": "someone/tiny"}

        def log_message(self, *_):
            pass

    with serving(Handler, TOKEN, monkeypatch):
        yield seen


def is_private(request: dict) -> bool:
    """Whether only its owner may see a repository, in the words of any huggingface_hub."""
    return request.get("visibility") == "private" or request.get("private") is True


def test_a_checkpoint_arrives_whole_and_private(folder, hub, capfd, caplog):
    assert push(folder, "someone/tiny") == "https://huggingface.co/someone/tiny"
    assert is_private(hub["created"][0]) and hub["created"][0]["name"] == "tiny"
    wanted = {path.name for path in folder.iterdir()} - {"notes.txt"}
    assert set(hub["files"]) == wanted and "README.md" in wanted
    assert all((folder / name).read_bytes() == content for name, content in hub["files"].items())
    assert hub["tokens"] - {None} == {f"Bearer {TOKEN}"}  # a model card is checked without one
    shown = caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in shown and not any(
        TOKEN.encode() in content for content in hub["files"].values()
    )


def test_adapters_arrive_without_a_path_of_this_machine(folder, hub):
    model = tiny()
    adapter = take_adapters(adapted(model))
    save(folder.with_name("sft"), model, load_tokenizer("tldr"), parent=folder, adapter=adapter)
    sent = folder.with_name("sft")
    assert str(folder) in (sent / "adapter" / "adapter_config.json").read_text()
    push(sent, "someone/tiny")
    assert {f"adapter/{path.name}" for path in (sent / "adapter").iterdir()} <= set(hub["files"])
    assert not any(str(folder.parent).encode() in content for content in hub["files"].values())
    for name, content in hub["files"].items():
        (sent / name).write_bytes(content)
    load_lora(sent / "adapter", model)  # as somebody else downloads them
    (sent / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="adapter_config.json is damaged"):
        push(sent, "someone/tiny")


@pytest.mark.parametrize("damage", ['{"files": 3}', "{"])
def test_a_damaged_checkpoint_stops_the_command_in_one_line(folder, damage, capsys):
    info = json.loads((folder / "stage.json").read_text())
    text = json.dumps(info | json.loads(damage)) if damage != "{" else damage
    (folder / "stage.json").write_text(text)
    with pytest.raises(SystemExit, match="publish: .*stage.json is damaged: ") as error:
        publish.main([str(folder), "someone/tiny"])
    assert "\n" not in str(error.value)


def test_the_command_prints_the_address(folder, hub, monkeypatch, capsys):
    publish.main([str(folder), "someone/tiny", "--public"])
    assert capsys.readouterr().out == "https://huggingface.co/someone/tiny\n"
    assert not is_private(hub["created"][0])


REFUSALS = {401: "does not know this token", 403: "may not write there", 404: "no such owner"}


@pytest.mark.parametrize(("status", "reason"), [*REFUSALS.items(), (418, "HTTP 418")])
def test_each_refusal_is_one_line_without_the_token(folder, hub, status, reason, capfd, caplog):
    hub["answer"] = (status, {"error": f"no, Bearer {TOKEN}"})
    with pytest.raises(SystemExit) as stopped:
        publish.main([str(folder), "someone/tiny"])
    message = str(stopped.value.code)
    assert (
        message.startswith("publish: someone/tiny ") and reason in message and "\n" not in message
    )
    assert TOKEN not in message + caplog.text + "".join(capfd.readouterr()) and not hub["files"]


def test_without_a_token_or_with_a_bad_name_nothing_is_asked(folder, hub, monkeypatch):
    for name in ("gpt2", "a/b/c", "some one/x", f"{TOKEN}/x y"):
        with pytest.raises(PublishError, match="is no name of a repository: give o") as error:
            push(folder, name)
        assert TOKEN not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(PublishError, match="no token for the Hub: run `hf auth login` or set HF_T"):
        push(folder, "someone/tiny")
    assert not hub["tokens"]


def test_a_damaged_checkpoint_is_not_published(folder, hub):
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="config.json has changed"):
        push(folder, "someone/tiny")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        push(folder / "nothing", "someone/tiny")
    assert not hub["tokens"]


def test_without_a_network_the_line_comes_soon(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    started, message = time.perf_counter(), "someone/tiny could not be reached, there may be no net"
    with pytest.raises(PublishError, match=message) as error:
        push(folder, "someone/tiny")
    assert time.perf_counter() - started < 10 and TOKEN not in str(error.value)
