"""Model names become folders: at once where they are there, in seconds where they cannot be had."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id

from al_ray.errors import RecipeError
from al_ray.models import folders, hub, memory
from al_ray.recipe import ModelSection, model_name

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``AL_RAY_HOME``."""
    monkeypatch.setenv("AL_RAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def silent_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes connections and never answers, and nothing in its cache."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield


def test_a_folder_with_a_model_is_itself(tmp_path: Path) -> None:
    """Nothing is copied or looked up."""
    (tmp_path / "config.json").write_text("{}")
    assert folders.resolve(str(tmp_path)) == tmp_path


def test_a_prepared_model_is_found_by_its_hub_name(home: Path) -> None:
    """The hub is not asked."""
    folder = home / "models" / "owner--model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert folders.resolve("owner/model") == folder


def test_a_home_that_is_named_from_here_gives_a_path_that_holds_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's workers have other working directories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AL_RAY_HOME", "cache")
    folder = tmp_path / "cache" / "models" / "owner--model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert folders.resolve("owner/model") == folder


def test_what_cannot_be_had_is_told_without_making_anything_ready(
    silent_hub: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither here, nor in a package, nor on a hub that answers, nor in its cache."""
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    with pytest.raises(
        RecipeError, match=r"model\.path: 'nobody/none': no such folder, and the Hugging Face"
    ):
        folders.check("nobody/none")
    assert folders.check(SMOLLM2) is None and not home.exists()  # a package carries it: it can be had


def test_a_folder_is_looked_at_for_what_engines_and_learners_load(tmp_path: Path, tiny_model: Path) -> None:
    def section(length: int) -> ModelSection:
        return ModelSection(path=str(tmp_path), max_length=length)

    config = json.loads((tiny_model / "config.json").read_bytes())
    longest = config["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert folders.check(str(tmp_path)) == tmp_path
    for file, lacking in (("x.safetensors", "holds no weights"), ("tokenizer.json", "holds no tokenizer")):
        with pytest.raises(RecipeError, match=lacking):
            folders.require_whole(tmp_path, section(longest))
        (tmp_path / file).write_bytes(struct.pack("<Q", 2) + b"{}")
    folders.require_whole(tmp_path, section(longest))
    with pytest.raises(RecipeError, match=f"max_position_embeddings {longest}"):
        folders.require_whole(tmp_path, section(longest + 1))
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_scaling": {"factor": 4.0}}))
    folders.require_whole(tmp_path, section(4 * longest))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"n_positions": 64}}))
    folders.require_whole(tmp_path, section(64))
    with pytest.raises(RecipeError, match=r"'?65'?: is more than the model sees: .* n_positions 64"):
        folders.require_whole(tmp_path, section(65))


def no_safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 134\n"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("model.safetensors", LFS, "is no whole safetensors file: was the download cut off, or is it a poin"),
        ("model.safetensors", b"", "is no whole safetensors file"),
        ("model.safetensors", no_safetensors(b"{}", 2**62), "is no whole safetensors file"),
        ("model.safetensors", no_safetensors(b'{"a": '), "is no whole safetensors file"),
        ("model.safetensors", no_safetensors(b"[]"), "is no whole safetensors file"),
        ("model.safetensors", no_safetensors(b'{"a": {"shape": [1]}}'), "is no whole safetensors file"),
        ("model.safetensors", None, "is no whole safetensors file"),
        ("config.json", LFS, r"is no JSON: .* \(git lfs pull\)"),
        ("config.json", b"", "is no JSON: .*; was the download cut off"),
        ("config.json", None, "is no JSON: "),
        ("config.json", b"\xff", "is no JSON: "),
        ("config.json", b"[]", r"holds no JSON object, but \[\]"),
    ],
)
def test_a_file_of_a_model_that_is_not_whole_is_told_with_the_cure(
    tmp_path: Path, tiny_model: Path, file: str, content: bytes | None, told: str
) -> None:
    """The weights' headers alone are read, and where they say that the last tensor ends. None: the file
    without its last byte."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    section = ModelSection(path=str(folder), max_length=64)
    folders.require_whole(folder, section)
    whole = (folder / file).read_bytes().rstrip()
    (folder / file).write_bytes(whole[:-1] if content is None else content)
    looking = [lambda: folders.require_whole(folder, section), lambda: memory.sizes_of(folder)]
    if file == "config.json":
        looking.append(lambda: folders.require_trainable(folder, section))
    for look in looking:
        with pytest.raises(RecipeError, match=rf"^model\.path: '{folder / file}': {told}"):
            look()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"is_encoder_decoder": True}, r"model\.path: .*is an encoder with a decoder"),
        ({"architectures": ["LlamaForSequenceClassification"]}, r"model\.path: .*predicts the next token"),
        ({"architectures": ["MistralModel"]}, r"model\.path: .*predicts the next token"),
        (
            {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096},
            r"model\.max_length: 8192: .*at most 4096: .*longrope",
        ),
        (
            {"text_config": {"rope_scaling": {"rope_type": "dynamic"}, "max_position_embeddings": 2048}},
            r"model\.max_length: 8192: .*at most 2048: .*dynamic",
        ),
        ({"architectures": ["GPT2LMHeadModel"], "rope_scaling": {"rope_type": "yarn"}}, None),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, None),
        ({"architectures": ["Qwen3ForCausalLM"], "rope_scaling": None, "rope_parameters": {}}, None),
    ],
)
def test_a_model_whose_calls_no_learner_can_compute_is_refused_by_its_config(
    tmp_path: Path, config: dict[str, object], told: str | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    section = ModelSection(path=str(tmp_path), max_length=8192)
    with pytest.raises(RecipeError, match=told) if told else nullcontext():
        folders.require_trainable(tmp_path, section)


@pytest.mark.parametrize(
    ("name", "told"), [("absent", "no such folder"), ("/absent/a/b", "no such folder"), (".", "config.json")]
)
def test_what_is_no_model_is_refused(name: str, told: str) -> None:
    """The value and what would be right are told."""
    with pytest.raises(RecipeError, match=told) as caught:
        folders.resolve(name)
    assert f"model.path: {name!r}" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "a/b--c",
        "a/b..c",
        "a/b.git",
        "ünï/x",
        "-a/b",
        "a/b-",
        ".a/b",
        "a/b/c",
        "a" * 97 + "/b",
        "a/" + "b" * 97,
    ],
)
def test_what_the_hub_would_take_for_no_name_is_refused_before_it_is_asked(name: str) -> None:
    for look in (folders.check, folders.resolve):
        with pytest.raises(RecipeError, match=r"no such folder, and no hub name like `owner/model`$"):
            look(name)
    with pytest.raises(HFValidationError):
        validate_repo_id(name)


def test_names_of_the_hub_are_let_in() -> None:
    for name in ("a/b", "0-x/y_z.w", "_a/b", "A.b/C-d", "a" * 96 + "/" + "b" * 96):
        validate_repo_id(name)
        assert model_name.problem(name) is None


def test_a_path_that_cannot_be_looked_at_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's home that there is not, a name that no disk takes, a folder that is closed to us."""

    def told(name: str, cure: str) -> None:
        for look in (folders.check, folders.resolve):
            with pytest.raises(RecipeError, match=f"model.path: '{name}': {cure}"):
                look(name)

    told("~nobody-at-all/x", "Could not determine home directory")
    told("a" * 300 + "/b", "cannot be looked at: File name too long")
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    for method in ("is_file", "is_dir"):
        monkeypatch.setattr(Path, method, mock.Mock(side_effect=denied))
    told("/closed/x", "cannot be looked at: Permission denied")


@pytest.mark.usefixtures("silent_hub")
def test_a_home_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    monkeypatch.setenv("AL_RAY_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(
        RecipeError, match=r"AL_RAY_HOME: '.*/file/home': no model can be kept there: .*Not a"
    ):
        folders.resolve(SMOLLM2)


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No retries, then the cures: a folder, or the package that carries the model."""
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    monkeypatch.setattr(folders, "PACKAGED", {SMOLLM2: "no_such_package"})
    for name, cure in (("nobody/nothing", "name a folder"), (SMOLLM2, r"al_ray\[gguf\]")):
        start = time.monotonic()
        with pytest.raises(RecipeError, match=cure):
            folders.resolve(name)
        assert time.monotonic() - start < 15


@pytest.mark.usefixtures("silent_hub")
def test_two_that_need_a_model_convert_it_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    """The second waits for the first; nothing else is left behind."""
    converted = []

    def convert(gguf: Path, folder: Path, tell: folders.Tell) -> None:
        converted.append(gguf)
        time.sleep(0.3)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(hub, "_SECONDS", 0.1)
    monkeypatch.setattr(folders, "_packaged", lambda name: tmp_path / "model.gguf")
    monkeypatch.setattr(folders, "_convert", convert)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(folders.resolve, [SMOLLM2, SMOLLM2]))
    assert found == [home / "models" / "HuggingFaceTB--SmolLM2-135M-Instruct"] * 2
    assert len(converted) == 1
    assert {file.suffix for file in (home / "models").iterdir()} <= {"", ".lock"}


def test_a_conversion_that_fails_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was half written is gone, so that the next try starts anew."""

    def convert(gguf: Path, folder: Path, tell: folders.Tell) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("disk full")

    monkeypatch.setattr(folders, "_convert", convert)
    with pytest.raises(OSError, match="disk full"):
        folders._prepare(tmp_path / "model.gguf", tmp_path / "models" / "m", print)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


@pytest.mark.slow
@pytest.mark.usefixtures("silent_hub")
def test_a_packaged_model_becomes_a_plain_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are the file's, dequantized; the folder knows nothing of GGUF and can chat."""
    gguf = pytest.importorskip("gguf")
    packaged = folders._packaged(SMOLLM2)
    if packaged is None:
        pytest.skip("no installed package carries the model")
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(hub, "_SECONDS", 0.1)
    told: list[tuple[str, int | None, int | None]] = []

    def tell(doing: str, done: int | None = None, total: int | None = None, /) -> None:
        told.append((doing.rpartition(": ")[2], done, total))

    folder = folders.resolve(SMOLLM2, tell)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(packaged).tensors}
    count = len(tensors)
    assert told == [
        ("libraries", None, None),
        ("the tokenizer", None, None),
        *(("the weights", done, count) for done in range(count + 1)),
        ("writing them", None, None),
    ]
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & set(config)
    assert config["dtype"] == "float32"
    with safe_open(folder / "model.safetensors", "pt") as saved:
        for theirs, ours in (
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.7.ffn_up.weight", "model.layers.7.mlp.up_proj.weight"),
        ):
            tensor = tensors[theirs]
            expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
            assert torch.equal(saved.get_tensor(ours), expected)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    answer = model.generate(**chat, max_new_tokens=12, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(answer)
