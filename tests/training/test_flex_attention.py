"""Flex attention with block masks, as it is chosen on CUDA: what dense masks and plain rows give, on the CPU.

torch's unfused version (without compiling) has a backward everywhere but looks at no list of blocks; its C++ kernels do,
but have no backward. The CUDA kernels are run by neither.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_gemma3, build_llama, random_row, without_float32_norms
from torch import Tensor

from rlaif.training.batches import Batch, plan_step
from rlaif.training.checkpoints import read_metrics
from rlaif.training.flex_attention import BLOCK, block_mask, blocks, takes_flex_attention, without_kernels
from rlaif.training.forward import _flex_problem, batch_logps, batch_rewards, checked_plan
from rlaif.training.logps import own_logps, own_reward, patch_forward, patch_reward_forward
from rlaif.training.masks import AttentionPlan, attention_plan, model_inputs, tree_mask, use_dense_attention
from rlaif.training.policy import fast_plan
from rlaif.training.reference import FrozenModel
from rlaif.training.rows import Completion, Row, Rows
from rlaif.training.session import open_trainer

CPU = torch.device("cpu")


def build_gemma2(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A random Gemma 2: soft-capped scores and logits, every other layer with a window of 5 tokens. Eager attention, the
    only other one for soft caps, computes its softmax in float32 whatever the model's dtype."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        **{"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5,
           "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8, "initializer_range": 0.3, "pad_token_id": 0,
           **settings}
    )  # fmt: skip
    return without_float32_norms(Gemma2ForCausalLM(config).to(dtype))


MODELS = {"llama": build_llama, "gemma3-sliding": build_gemma3, "gemma2-soft-capped": build_gemma2}


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flex attention without compiling, and with a backward, which torch refuses only because it has no kernel for it."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    made = MODELS[request.param]()
    patch_forward(made)
    return made.eval()


def tolerance(model: Any) -> float:
    return 1e-9 if model.dtype == torch.float64 else 1e-4


def outcome(model: Any, plan: AttentionPlan, batches: list[Batch]) -> tuple[dict[tuple[int, int, int], float], Tensor]:
    """The log-prob of every learned token by its place, and the gradient of their sum of squares."""
    model.zero_grad()
    found = {}
    for batch in batches:
        logps = batch_logps(model, batch, plan)
        logps.square().sum().backward()
        layout = batch.layout
        for value, completion, place in zip(logps.tolist(), layout.completion, layout.position, strict=True):
            found[*layout.sources[int(completion)], int(place)] = value
    return found, torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("long_rows", [False, True])
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_equals_dense_masks_and_plain_rows(
    unfused: None, model: Any, rows: list[Row], budget: int, long_rows: bool
) -> None:
    """One tree and many in a row, rows with padding, an answer of one token (which has no positions)."""
    no_shared = [row for row in rows if row.id != "c"]  # whose branches count twice where they are not shared
    every = range(len(no_shared))
    dense = use_dense_attention(model)
    expected = outcome(model, dense, plan_step(no_shared, every, budget))
    plain = outcome(model, dense, plan_step(no_shared, every, budget, plain=True))
    atol = tolerance(model)
    plan = fast_plan(model, "cuda")
    assert plan.flex
    assert plan.in_blocks
    found = outcome(model, plan, plan_step(no_shared, every, budget, long_rows=long_rows))
    for other in (expected, plain):
        assert found[0] == pytest.approx(other[0], abs=atol)
        torch.testing.assert_close(found[1], other[1], rtol=atol, atol=atol)


def test_other_calls_of_the_model_stay_what_they_are(unfused: None, model: Any, rows: list[Row]) -> None:
    """Without a mask, and with a mask of padding: with flex attention set as without."""
    ids = torch.arange(20).reshape(2, 10)
    padding = torch.ones(2, 10, dtype=torch.long)
    padding[1, 7:] = 0
    found = []
    for choose in (use_dense_attention, lambda model: fast_plan(model, "cuda")):
        plan = choose(model)
        logits = model(input_ids=ids, attention_mask=padding).logits[padding.bool()]
        logps = own_logps(model, rows[0].prompt, rows[0].completions[0], CPU)
        (batch,) = plan_step(rows, [0, 3], 1000, plain=True)
        found.append(torch.cat([logits.flatten(), logps, batch_logps(model, batch, plan)]).detach())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=tolerance(model))


def test_a_reward_model_scores_long_rows(unfused: None, rows: list[Row]) -> None:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    config = build_llama(num_labels=1, pad_token_id=1).config
    model = without_float32_norms(LlamaForSequenceClassification(config).to(torch.float64)).eval()
    patch_reward_forward(model)
    plan = fast_plan(model, "cuda")
    assert checked_plan(model, rows, plan, CPU, rewards=True) == plan
    (batch,) = plan_step(rows, range(len(rows)), 10_000, read_last=True, long_rows=True)
    own = [own_reward(model, rows[row].prompt, rows[row].completions[side], CPU) for row, side in batch.layout.sources]
    torch.testing.assert_close(batch_rewards(model, batch, plan)["rewards"], torch.stack(own))


def dense(batch: Batch, window: int | None) -> Tensor:
    """The mask of tree_mask within a window, (R, 1, L, L)."""
    distance = batch.position_ids[:, :, None] - batch.position_ids[:, None, :]
    return tree_mask(batch) & (distance < (window or 10_000))[:, None]


def random_batches() -> Iterator[Batch]:
    """Trees with answers of 1 to 29 tokens, some prompts shared, in rows with and without padding."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randint(1, 30, (7, 3), generator=generator).tolist()
        made = [random_row(generator, str(i), *lengths) for i, lengths in enumerate(sizes)]
        made[3] = Row("3", made[2].prompt, made[3].completions)
        for long_rows in (False, True):
            yield from plan_step(made, range(len(made)), 150, long_rows=long_rows, read_last=seed % 2 == 0)


def test_the_function_of_positions_is_the_dense_mask() -> None:
    for batch in random_batches():
        count, length = batch.input_ids.shape
        row, position = torch.arange(count)[:, None, None], torch.arange(length)
        for window in (None, 6):
            seen = block_mask(batch, window).mask_mod(row, torch.tensor(0), position[:, None], position)
            assert torch.equal(seen[:, None], dense(batch, window))
            assert seen.any(-1).all(), "a position that sees nothing would be no number"


def reduced(mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Whether some, and whether all of each block of a dense mask is true; what is beyond its edge is not."""
    missing = -mask.shape[-1] % size
    padded = torch.nn.functional.pad(mask, (0, missing, 0, missing))
    count = padded.shape[-1] // size
    cut = padded.reshape(len(mask), 1, count, size, count, size)
    return cut.any(-1).any(-2), cut.all(-1).all(-2)


@pytest.mark.parametrize("size", [1, 4, 7, 16])
def test_the_blocks_are_those_of_the_dense_mask(size: int) -> None:
    """Exactly without a window. With one, no block that is seen is left out, and none is called full that is not."""
    for batch in random_batches():
        some, everything = reduced(dense(batch, None), size)
        partial, full = blocks(batch, None, size)
        before = torch.ones(some.shape[-2:], dtype=torch.bool).tril(-1)
        assert torch.equal(full, everything & before)  # on the diagonal only blocks of one position could be full
        assert torch.equal(partial, some & ~full)
        some, everything = reduced(dense(batch, 6), size)
        partial, full = blocks(batch, 6, size)
        assert not (some & ~(partial | full)).any()
        assert not (full & ~everything).any()
        assert not (partial & full).any()
        assert (partial | full).sum() < some.numel() or some.numel() < 4


def test_two_trees_longer_than_a_block_skip_each_other_and_their_branches() -> None:
    """Each tree: a prompt of 2 blocks, two answers of 2 blocks (their last token is never read). A tree's blocks by
    query: prompt 1, 2; first answer 3, 4; second answer 3, 4, the first left out: 17. Dense: 12 * 12, causal: 78."""
    generator = torch.Generator().manual_seed(0)
    made = [random_row(generator, name, 2 * BLOCK, 2 * BLOCK + 1, 2 * BLOCK + 1) for name in "ab"]
    (batch,) = plan_step(made, [0, 1], 10_000, long_rows=True)
    mask = block_mask(batch, None)
    assert mask.kv_num_blocks.shape == (1, 1, 12)
    assert int(mask.kv_num_blocks.sum()) == 12  # on the diagonal
    assert int(mask.full_kv_num_blocks.sum()) == 34 - 12
    narrow = block_mask(batch, 10)
    assert int(narrow.kv_num_blocks.sum() + narrow.full_kv_num_blocks.sum()) < 34


def test_masks_are_made_once_for_all_layers(model: Any, rows: list[Row]) -> None:
    """One for each kind of layer, handed to the model ready-made."""
    plan = fast_plan(model, "cuda")
    (batch,) = plan_step(rows, range(len(rows)), 10_000, long_rows=True)
    mask = model_inputs(batch, plan, model.dtype)["attention_mask"]
    kinds = mask if isinstance(mask, dict) else {"full_attention": mask}
    assert set(kinds) == set(plan.layers)
    assert all(item.seq_lengths == (batch.input_ids.shape[1],) * 2 for item in kinds.values())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("build", [build_llama, build_gemma3])
def test_compiled_kernels_skip_blocks_rightly(build: Any) -> None:
    """Rows of several blocks, some of them left out, by the kernels that torch generates for the CPU."""
    generator = torch.Generator().manual_seed(0)
    made = [random_row(generator, str(i), 60 + 37 * i, 40 + 30 * i, 30 + 50 * i) for i in range(5)]
    window = {"sliding_window": 70} if build is build_gemma3 else {}
    model = build(torch.float32, head_dim=16, max_position_embeddings=2048, initializer_range=0.1, **window).eval()
    patch_forward(model)
    without = attention_plan(model.config)
    plan = fast_plan(model, "cuda")
    with torch.no_grad():
        for budget in (300, 10_000):
            for batch in plan_step(made, range(len(made)), budget, long_rows=True):
                expected = batch_logps(model, batch, without)
                torch.testing.assert_close(batch_logps(model, batch, plan), expected, rtol=0, atol=2e-5)


def test_under_autocast_it_computes_in_the_narrow_dtype(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """As SDPA does, though queries and keys come as float32, turned by float32 angles, and values as bfloat16."""
    dtypes = set()

    def notes(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        dtypes.update((query.dtype, key.dtype, value.dtype))
        return fails_backward(module, query, key, value, mask, **kwargs)

    monkeypatch.setattr("transformers.integrations.flex_attention.flex_attention_forward", notes)
    model = build_llama(torch.float32).eval()
    patch_forward(model)
    (batch,) = plan_step(rows, range(len(rows)), 10_000, long_rows=True)
    without, plan = attention_plan(model.config), fast_plan(model, "cuda")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, expected = batch_logps(model, batch, plan), batch_logps(model, batch, without)
    assert dtypes == {torch.bfloat16}
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


def test_only_models_it_is_right_for_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_plan(build_llama(), "cuda").flex
    assert not fast_plan(build_llama(), "cpu").flex
    assert not fast_plan(build_llama(attn_implementation="eager"), "cuda").flex
    recurrent = build_llama()
    recurrent.config.layer_types = ["linear_attention", "full_attention"]
    assert not fast_plan(recurrent, "cuda").flex
    unknown = build_llama()
    monkeypatch.setattr(type(unknown), "_supports_flex_attn", False)
    assert not takes_flex_attention(unknown)
    assert fast_plan(unknown, "cuda") == AttentionPlan()


def test_soft_capped_scores_are_never_left_to_sdpa() -> None:
    assert use_dense_attention(build_gemma2()).additive
    assert fast_plan(build_gemma2(), "cpu").additive


@pytest.mark.parametrize(
    ("settings", "dtype", "told"),
    [
        ({"head_dim": 8}, torch.float32, "attention heads of less than 16 numbers, and these have 8"),
        ({"hidden_size": 32, "num_attention_heads": 4}, torch.bfloat16, "these have 8"),
        ({"head_dim": 16}, torch.float64, "float64"),
        ({"head_dim": 16}, torch.float32, None),
        ({"head_dim": 64}, torch.bfloat16, None),
    ],
)
def test_what_has_no_cuda_kernels_is_known_without_compiling(
    settings: dict[str, Any], dtype: torch.dtype, told: str | None
) -> None:
    model = build_llama(dtype, **settings)
    reason = without_kernels(model.config, dtype)
    assert (reason is None) if told is None else (reason is not None and told in reason)


def test_on_cuda_such_a_model_gets_dense_masks_at_once(rows: list[Row]) -> None:
    """And the reason is said; on the CPU the tests' models of float64 and small heads are attended as they are."""
    model = build_llama(head_dim=16)
    plan = fast_plan(model, "cuda")
    assert _flex_problem(fails, model, rows, rows, plan, torch.device("cuda")) == "it does not compute in float64"


class CompilerError(Exception):
    """Of a kind that is no RuntimeError."""


def fails(*args: Any, **kwargs: Any) -> Any:
    raise CompilerError("no kernel\nof any size")


def fails_backward(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """Right forwards."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    row, position = torch.arange(len(query))[:, None, None], torch.arange(query.shape[2])
    seen = mask.mask_mod(row, torch.tensor(0), position[:, None], position)[:, None]
    output, _ = sdpa_attention_forward(module, query, key, value, seen, **kwargs)
    if output.requires_grad:
        output.register_hook(fails)
    return output, None


def is_wrong(*args: Any, **kwargs: Any) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(*args[:4], None, **kwargs)


@pytest.mark.parametrize("kernel", [fails, fails_backward, is_wrong])
def test_where_it_fails_or_is_wrong_dense_masks_take_its_place(
    rows: list[Row], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kernel: Any
) -> None:
    monkeypatch.setattr("transformers.integrations.flex_attention.flex_attention_forward", kernel)
    model = build_llama()
    patch_forward(model)
    assert checked_plan(model, rows, fast_plan(model, "cuda"), CPU) == AttentionPlan()
    reason = "mean difference" if kernel is is_wrong else "CompilerError: no kernel of any size\n"
    assert f"flex attention is not used, dense masks are: {reason}" in capsys.readouterr().err
    assert all(weight.grad is None for weight in model.parameters())


def test_where_dense_masks_fail_too_rows_are_plain(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.flex_attention.flex_attention_forward", fails)
    model = build_llama()
    inner = model.model.forward
    model.model.forward = lambda *args, attention_mask=None, **kwargs: inner(
        *args, attention_mask=attention_mask if getattr(attention_mask, "ndim", 0) != 4 else None, **kwargs
    )
    patch_forward(model)
    assert checked_plan(model, rows, fast_plan(model, "cuda"), CPU).is_plain


def test_the_check_passes_where_it_is_right(unfused: None, model: Any, rows: list[Row]) -> None:
    plan = fast_plan(model, "cuda")
    assert checked_plan(model, rows, plan, CPU) == plan
    assert all(weight.grad is None for weight in model.parameters())


def test_a_second_model_is_checked_too(train_config: Any, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference may be of another kind than the policy. Here its masks show each position only itself, so both are given
    plain rows, and the loss of the first step is that of two equal models."""
    wrong = AttentionPlan(layers=("sliding_attention",), window=1)
    monkeypatch.setattr("rlaif.training.session.fast_plan", lambda *args, **keys: wrong)
    config = train_config(reference="copy", batch_size=6)
    trainer = open_trainer(config, Rows(rows))
    assert isinstance(trainer.work.reference, FrozenModel)
    assert trainer.work.reference.plan.is_plain
    assert trainer.work.plan.is_plain
    trainer.resume(None)
    assert read_metrics(config.output / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_log_probs_of_a_second_model_are_kept_by_its_own_plan(
    train_config: Any, rows: list[Row], model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = AttentionPlan(layers=("sliding_attention",), window=1)
    monkeypatch.setattr("rlaif.training.session.fast_plan", lambda *args, **keys: wrong)
    config = train_config(reference="cached", reference_model=str(model_folder), batch_size=6)
    trainer = open_trainer(config, Rows(rows))
    assert not trainer.work.plan.is_plain
    trainer.resume(None)
    assert read_metrics(config.output / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_an_answer_of_one_token_makes_a_tree_of_its_prompt_alone() -> None:
    (batch,) = plan_step([Row("x", (5, 6, 7), (Completion((8,)),))], [0], 100, long_rows=True)
    partial, full = blocks(batch, None, 2)
    assert partial[0, 0].tolist() == [[True, False], [True, True]]  # the last block has 1 position
    assert not full.any()
