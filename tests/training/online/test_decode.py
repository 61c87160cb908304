"""Sampling with the model that is trained, against the library's `generate` and the model's own forward."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import build_gemma3, build_llama, build_moe, without_float32_norms

from rlaif.training.logps import own_logps, patch_forward
from rlaif.training.masks import use_dense_attention
from rlaif.training.online.decode import Decoder, inverse_transform
from rlaif.training.online.samples import Sampled, SampleRequest
from rlaif.training.policy import fast_plan
from rlaif.training.rows import Completion

CPU = torch.device("cpu")


def build_gemma2(dtype: torch.dtype = torch.float64) -> Any:
    """A random Gemma 2: a sliding window of 5 tokens in every other layer, scores and logits capped so that it bites."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=5, initializer_range=0.3, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0, query_pre_attn_scalar=8, eos_token_id=2, bos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return without_float32_norms(Gemma2ForCausalLM(config).to(dtype))


def build_mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=260, hidden_size=32, state_size=4, num_hidden_layers=2, eos_token_id=2)
    return MambaForCausalLM(config).double()


def build_lfm2() -> Any:
    """A hybrid: a layer of convolution, then one of attention."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], initializer_range=0.3, eos_token_id=2,
        bos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return without_float32_norms(Lfm2ForCausalLM(config).double())


BUILDERS = {
    "llama": build_llama, "gemma3": build_gemma3, "gemma2": build_gemma2, "mixtral": build_moe, "mamba": build_mamba,
    "lfm2": build_lfm2,
}  # fmt: skip


def ready(model: Any) -> Any:
    """As load_policy readies it on the CPU."""
    patch_forward(model)
    fast_plan(model, "cpu")
    return model.eval()


@pytest.fixture(params=BUILDERS)
def model(request: pytest.FixtureRequest) -> Any:
    return ready(BUILDERS[request.param]())


def decoder(model: Any, stops: Collection[int] = (), **settings: Any) -> Decoder:
    return Decoder(model, stops, **{"temperature": 1.0, "max_tokens": 12, "most_rows": 64, **settings})


def requests(*shape: tuple[int, int]) -> list[SampleRequest]:
    """Prompts of random ids, given each one's length and number of responses."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for number, (length, responses) in enumerate(shape):
        ids = torch.randint(3, 259, (length,), generator=generator).tolist()
        seeds = tuple(100 * number + index for index in range(responses))
        made.append(SampleRequest(f"p{number}", tuple(ids), seeds))
    return made


ROUNDING = {"Gemma2ForCausalLM": 1e-6, "MambaForCausalLM": 1e-6}
"""How far log-probs may be from the model's own where it is not in float64 throughout: Gemma 2 computes the softmax of its
attention, and Mamba gives back its logits, in float32."""


def gap(model: Any, prompt: tuple[int, ...], response: Sampled) -> float:
    """The largest difference of log-probs to those from one pass of the model's own forward over prompt and response."""
    own = own_logps(model, prompt, Completion(response.ids), CPU)
    return (torch.tensor(response.logps, dtype=own.dtype) - own).abs().max().item()


def is_own(model: Any, prompt: tuple[int, ...], response: Sampled) -> bool:
    return gap(model, prompt, response) < ROUNDING.get(type(model).__name__, 1e-9)


def alike(one: Sampled, other: Sampled) -> bool:
    return (
        one.ids == other.ids and one.stopped == other.stopped and np.allclose(one.logps, other.logps, rtol=0, atol=1e-6)
    )


def sampled(decoder: Decoder, asked: Sequence[SampleRequest]) -> dict[tuple[str, int], Sampled]:
    """Responses by prompt and seed, batch after batch."""
    return {
        (request.key, seed): response
        for batch in decoder.batches(asked)
        for request, responses in zip(batch, decoder.sample(batch), strict=True)
        for seed, response in zip(request.seeds, responses, strict=True)
    }


MIXED = requests((9, 3), (4, 1), (14, 2), (9, 2))


def test_temperature_0_is_what_generate_finds(model: Any) -> None:
    """The reference is the library's own loop on each prompt alone, without padding. log-probs are those at temperature 1."""
    found = sampled(decoder(model, temperature=0), MIXED)
    for request in MIXED:
        ids = torch.tensor([request.prompt])
        text = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=None,
            pad_token_id=0,
        )
        expected = tuple(text[0, len(request.prompt) :].tolist())
        for seed in request.seeds:
            assert found[request.key, seed].ids == expected
            assert is_own(model, request.prompt, found[request.key, seed])


def test_log_probs_are_those_of_the_model(model: Any) -> None:
    """Step by step from what is kept, against one pass over prompt and response: the same but for rounding."""
    found = sampled(decoder(model), MIXED)
    for request in MIXED:
        for seed in request.seeds:
            assert is_own(model, request.prompt, found[request.key, seed])


def test_log_probs_are_of_the_tempered_distribution() -> None:
    """With all log-probs at temperature 1 known, those at 0.5 are 2 log p less the log-sum of 2 log p."""
    model = ready(build_llama())
    (request,) = requests((6, 1))
    ((response,),) = decoder(model, temperature=0.5).sample([request])
    row = torch.tensor([request.prompt + response.ids])
    logps = model(input_ids=row).logits[0, len(request.prompt) - 1 : -1].log_softmax(-1)
    tempered = (2 * logps - (2 * logps).logsumexp(-1, keepdim=True)).gather(1, torch.tensor(response.ids)[:, None])[
        :, 0
    ]
    assert torch.allclose(torch.tensor(response.logps, dtype=torch.float64), tempered, rtol=0, atol=1e-9)


def test_float32_within_its_rounding() -> None:
    model = ready(build_llama(torch.float32))
    for (key, _), response in sampled(decoder(model), MIXED).items():
        prompt = next(request.prompt for request in MIXED if request.key == key)
        assert gap(model, prompt, response) < 1e-4


def test_a_sample_hangs_on_prompt_and_seed_alone(model: Any) -> None:
    """Alone, in a batch, in the reverse order, and with rows that stop beside it (so that rows are dropped)."""
    stops = set(range(3, 60))
    together = sampled(decoder(model, stops), MIXED)
    reverse = sampled(decoder(model, stops), MIXED[::-1])
    alone = sampled(decoder(model, stops, most_rows=1), MIXED)
    assert len({response.ids for response in together.values()}) == len(together)  # the seeds do something
    assert len({len(response.ids) for response in together.values()}) > 2  # and rows stop at different times
    for name, response in together.items():
        assert alike(response, reverse[name])
        assert alike(response, alone[name])


def test_the_same_batch_again_is_the_same_bit_for_bit() -> None:
    model = ready(build_llama(torch.float32))
    assert decoder(model, {5, 6, 7}).sample(MIXED) == decoder(model, {7, 6, 5}).sample(MIXED)


def test_a_stop_token_ends_a_response_and_stays(model: Any) -> None:
    """What is sampled with stops is what is sampled without, cut after the first stop token."""
    stops = set(range(3, 60))
    whole, cut = sampled(decoder(model), MIXED), sampled(decoder(model, stops), MIXED)
    assert any(response.stopped for response in cut.values())
    assert not any(response.stopped for response in whole.values())
    for name, response in whole.items():
        end = next((place + 1 for place, token in enumerate(response.ids) if token in stops), None)
        assert alike(cut[name], Sampled(response.ids[:end], response.logps[:end], end is not None))


def test_a_response_has_at_most_max_tokens() -> None:
    model = ready(build_llama())
    assert {len(response.ids) for response in sampled(decoder(model, max_tokens=1), MIXED).values()} == {1}
    assert {len(response.ids) for response in sampled(decoder(model, max_tokens=5), MIXED).values()} == {5}


def test_responses_of_one_token(model: Any) -> None:
    """Every token is a stop: all end at the first, and nothing is computed after it."""
    calls = []
    model.base_model.register_forward_hook(lambda *_: calls.append(1))
    for response in sampled(decoder(model, range(260)), MIXED[:1]).values():
        assert len(response.ids) == len(response.logps) == 1
        assert response.stopped
    assert len(calls) == 1


def test_a_stop_at_the_last_token_counts() -> None:
    model = ready(build_llama())
    ((response,),) = decoder(model, range(260), max_tokens=1).sample(requests((5, 1)))
    assert response.stopped


def test_batches_keep_a_prompt_together_and_lengths_alike() -> None:
    """With at most 5 responses: 14 (2 of them) and the first 9 (3) fill one; the second 9 (2) and 4 (1) are the next."""
    model = ready(build_llama())
    found = decoder(model, most_rows=5).batches(MIXED)
    assert [[request.key for request in batch] for batch in found] == [["p2", "p0"], ["p3", "p1"]]
    assert decoder(model, most_rows=5).batches(MIXED[::-1]) == found


def test_a_prompt_with_more_responses_than_fit_goes_alone() -> None:
    asked = requests((5, 1), (5, 7), (5, 1))
    found = decoder(ready(build_llama()), most_rows=3).batches(asked)
    assert [[request.key for request in batch] for batch in found] == [["p0"], ["p1"], ["p2"]]


def test_prompts_of_one_length_where_padding_would_be_read() -> None:
    lengths = [{len(request.prompt) for request in batch} for batch in decoder(ready(build_mamba())).batches(MIXED)]
    assert lengths == [{14}, {9}, {4}]


def test_frequencies_are_the_probabilities() -> None:
    """4,000 first tokens at temperature 0.7, against the model's own distribution of 12 tokens: chi-square with 11 degrees of
    freedom is below 31.3 in 999 of 1,000 such tests (and the seeds are fixed)."""
    model = ready(build_llama(vocab_size=12, initializer_range=0.2))
    request = SampleRequest("p", (3, 5, 7), tuple(range(4000)))
    (responses,) = decoder(model, temperature=0.7, max_tokens=1, most_rows=4000).sample([request])
    counts = np.bincount([response.ids[0] for response in responses], minlength=12)
    logits = model(input_ids=torch.tensor([request.prompt])).logits[0, -1]
    expected = 4000 * (logits / 0.7).softmax(-1).detach().numpy()
    assert expected.min() > 5
    assert ((counts - expected) ** 2 / expected).sum() < 31.3


def test_tokens_of_no_probability_are_never_drawn() -> None:
    """At the ends of [0, 1), with tokens of probability 0 before, between and after the others, in 300 rows in float32: in
    some, rounding makes a sum of shares larger than the shares one by one, and the place after the last one would be drawn."""
    logits = torch.randn(300, 700, generator=torch.Generator().manual_seed(0))
    logits[:, :3] = logits[:, 250:260] = logits[:, 600:] = -torch.inf
    for uniform in (0.0, 0.5, 1 - 2**-53):
        found, logps = inverse_transform(logits, torch.full((300,), uniform, dtype=torch.float64))
        assert logps.isfinite().all()
        assert torch.allclose(logps, logits.log_softmax(-1).gather(1, found[:, None])[:, 0])
        assert uniform == 0.5 or set(found.tolist()) == {3 if uniform == 0 else 599}


def test_shares_are_exact_where_float32_sums_are_not() -> None:
    """49,152 tokens alike: the number (k + 1/2) / 49,152 falls into the share of token k. In float32 a running sum of that
    many is off by more than a share."""
    logps = torch.full((3, 49152), -math.log(49152.0))
    places = [1, 30000, 49150]
    uniforms = torch.tensor([(place + 0.5) / 49152 for place in places], dtype=torch.float64)
    found, found_logps = inverse_transform(logps, uniforms)
    assert found.tolist() == places
    assert torch.allclose(found_logps, logps[:, 0])


def with_adapter(model: Any, dropout: float = 0.0) -> Any:
    """The model with LoRA weights that are not zero."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(1)
    policy = get_peft_model(model, settings)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora" in name:
                weight.data = weight.double().normal_(std=0.3)
    return policy


def test_the_adapter_is_in_effect_and_its_dropout_is_not() -> None:
    policy = with_adapter(ready(build_llama()), dropout=0.5).train()
    found = sampled(decoder(policy), MIXED)
    policy.eval()
    with policy.disable_adapter():
        base = sampled(decoder(policy), MIXED)
    assert all(found[name].ids != base[name].ids for name in found)
    for request in MIXED:
        assert is_own(policy, request.prompt, found[request.key, request.seeds[0]])


def gradients(policy: Any) -> list[torch.Tensor]:
    torch.manual_seed(3)
    ids = torch.arange(3, 20)[None]
    loss = policy(input_ids=ids, labels=ids).loss
    found = torch.autograd.grad(loss, [weight for weight in policy.parameters() if weight.requires_grad])
    return [*found, loss.detach()]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
def test_training_goes_on_as_if_nothing_was_sampled(kind: str) -> None:
    """Mode (of each module: one is in another than the rest), attention, forward, what is trained, the global random state
    and the next gradients, with dropout, are as before."""
    policy = with_adapter(ready(BUILDERS[kind]()), dropout=0.3).train()
    odd = next(module for module in policy.modules() if isinstance(module, torch.nn.Dropout))
    odd.eval()
    modes = [module.training for module in policy.modules()]
    trained = [weight.requires_grad for weight in policy.parameters()]
    forward, attention = policy.base_model.model.forward, policy.config._attn_implementation
    before, state = gradients(policy), torch.random.get_rng_state()
    sampled(decoder(policy, {5, 6}), MIXED)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in policy.modules()] == modes
    assert [weight.requires_grad for weight in policy.parameters()] == trained
    assert policy.base_model.model.forward == forward
    assert policy.config._attn_implementation == attention
    assert torch.is_grad_enabled()
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(policy), strict=True))


def test_an_error_leaves_the_mode_as_it_was() -> None:
    policy = ready(build_llama()).train()
    attention = policy.config._attn_implementation
    with pytest.raises(IndexError):
        decoder(policy).sample([SampleRequest("p", (999,), (1,))])  # no such token
    assert policy.training
    assert policy.config._attn_implementation == attention


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
def test_in_the_given_context(kind: str) -> None:
    """Under autocast to bfloat16, as full fine-tuning computes: not the numbers of float32, but near to them."""
    model = ready(BUILDERS[kind](torch.float32))
    found = sampled(decoder(model, context=lambda: torch.autocast("cpu", torch.bfloat16)), MIXED)
    gaps = [gap(model, request.prompt, found[request.key, request.seeds[0]]) for request in MIXED]
    assert 1e-4 < max(gaps) < 1


def test_with_the_librarys_own_attention() -> None:
    """Without `fast_plan`, as on other devices than the CPU: SDPA and boolean masks are not needed for the same answer."""
    model = build_gemma3()
    patch_forward(model)
    use_dense_attention(model)
    assert all(
        alike(response, other)
        for response, other in zip(
            sampled(decoder(model.eval()), MIXED).values(), sampled(decoder(ready(build_gemma3())), MIXED).values(),
            strict=True,
        )
    )  # fmt: skip


@pytest.mark.model
def test_smollm2(real_model_folder: Path) -> None:
    """The likeliest tokens are those of `generate`, and log-probs those of the model's own forward within 1e-4."""
    from rlaif.models import load_model

    model = ready(load_model(str(real_model_folder), "float32", "cpu"))
    asked = requests((20, 2), (11, 1))
    found = sampled(decoder(model, temperature=0), asked) | {
        (key, seed + 1000): response for (key, seed), response in sampled(decoder(model), asked).items()
    }
    for request in asked:
        ids = torch.tensor([request.prompt])
        text = model.generate(ids, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0)
        assert found[request.key, request.seeds[0]].ids == tuple(text[0, len(request.prompt) :].tolist())
        for seed in (request.seeds[0], request.seeds[0] + 1000):
            assert gap(model, request.prompt, found[request.key, seed]) < 1e-4
