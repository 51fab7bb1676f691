"""The in-process engine: K samples per prompt from one prefill, on any causal language model of transformers.

A batch is as many prompts as the token budget holds, all K samples of each. Rows that finish are dropped from the
batch once they are a good part of it. One uniform number per row and position, from `draws`, is searched in the
cumulative distribution, so a sample does not depend on who its neighbours are.
"""

import functools
import operator
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch

from reasonrl.errors import UsageError
from reasonrl.models.language_model import LanguageModel
from reasonrl.sampling.hf import attention, draws
from reasonrl.sampling.hf.cache import BLOCK, DecodingCache
from reasonrl.sampling.types import Completion, Request, Sampling, cut_at_stop
from reasonrl.settings import limits

WINDOW = 4  # batches whose prompts are sorted by length together
KEEP_FRACTION = 0.75  # rows are dropped when at most this fraction of them is still unfinished


class HFEngine:
    """Samples from `policy` in this process. `batch_tokens` bounds prompts and completions held at a time.

    reserved: bytes of a GPU that are free now and will not be.
    """

    def __init__(self, policy: LanguageModel, batch_tokens: int | None = None, reserved: int = 0):
        self.policy = policy
        self.model = policy.model
        self.device = policy.model.device
        self.batch_tokens = batch_tokens or self._default_budget(reserved)
        self.eos = torch.tensor(sorted(policy.eos_ids), device=self.device)
        self._stop_strings = functools.lru_cache(lambda stop: _StopStrings(policy, stop))
        kinds = set(getattr(self.model.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise UsageError(f"the hf engine knows full attention only, this model has {', '.join(sorted(kinds))}")

    def _default_budget(self, reserved: int) -> int:
        config = self.model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        per_token = 2 * config.num_hidden_layers * heads * size * self.model.dtype.itemsize
        per_token += 4 * 4 * config.vocab_size // 64  # a row has four arrays of logits and, say, 64 tokens
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return max(1, int((free - reserved) * limits.GPU_SHARE) // per_token)
        return min(limits.CPU_CACHE_TOKENS, max(1, limits.CPU_CACHE_BYTES // per_token))

    def sample(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[list[Completion]]:
        """See `Engine.sample`. Raises UsageError for a prompt that leaves no room for a completion."""
        stops = self._stop_strings(sampling.stop) if sampling.stop else None
        was_training = self.model.training
        self.model.eval()
        try:
            requests = iter(requests)
            while window := self._take_window(requests, sampling):
                by_length = sorted(range(len(window)), key=lambda i: -len(window[i].prompt_ids))
                done: dict[int, list[Completion]] = {}
                following = 0
                for batch in self._batches(by_length, window, sampling):
                    completions = self._complete([window[i] for i in batch], sampling, stops)
                    done.update(zip(batch, completions, strict=True))
                    while following in done:
                        yield done.pop(following)
                        following += 1
        finally:
            self.model.train(was_training)

    def close(self) -> None:
        """Nothing to hand back: the policy is the caller's."""

    def _rows(self, width: int, sampling: Sampling) -> int:
        """How many samples with prompts of `width` tokens fill the budget."""
        return min(limits.MAX_ROWS, max(1, self.batch_tokens // (width + sampling.max_tokens)))

    def _take_window(self, requests: Iterator[Request], sampling: Sampling) -> list[Request]:
        window: list[Request] = []
        tokens = 0
        for request in requests:
            self.policy.check_fits(request.id, request.prompt_ids)
            window.append(request)
            tokens += (len(request.prompt_ids) + sampling.max_tokens) * sampling.k
            if tokens >= WINDOW * self.batch_tokens:
                break
        return window

    def _batches(self, order: list[int], window: list[Request], sampling: Sampling) -> Iterator[list[int]]:
        """Consecutive prompts of `order`, longest first, so that a batch is as wide as its first prompt."""
        remaining = iter(order)
        for first in remaining:
            prompts = max(1, self._rows(len(window[first].prompt_ids), sampling) // sampling.k)
            yield [first, *islice(remaining, prompts - 1)]

    def _complete(
        self, batch: list[Request], sampling: Sampling, stops: "_StopStrings | None"
    ) -> list[list[Completion]]:
        """All K samples of a batch of prompts; in several turns where one prompt's K alone exceed the budget."""
        most = min(sampling.k, self._rows(len(batch[0].prompt_ids), sampling))
        turns = [range(k, min(k + most, sampling.k)) for k in range(0, sampling.k, most)]
        with attention.used_by(self.model):
            parts = [self._decode(batch, samples, sampling, stops) for samples in turns]
        return [functools.reduce(operator.iadd, of_prompt, []) for of_prompt in zip(*parts, strict=True)]

    @torch.inference_mode()
    def _decode(
        self, batch: list[Request], samples: range, sampling: Sampling, stops: "_StopStrings | None"
    ) -> list[list[Completion]]:
        """The given samples of each prompt. Rows are (prompt, sample) pairs, the samples of a prompt together."""
        k = len(samples)
        lengths = torch.tensor([len(request.prompt_ids) for request in batch], device=self.device)
        cache, logits = self._prefill(batch, k)
        width = cache.length
        context = self.policy.context
        limit = min(sampling.max_tokens, context - int(lengths.min()))

        total = len(batch) * k
        drawn = _Drawn(total, limit, self.device)
        keys = draws.row_keys(sampling.seed, [request.id for request in batch], samples)
        rows = torch.arange(total, device=self.device)  # which sample each row of the batch is
        alive = torch.ones(total, dtype=torch.bool, device=self.device)
        logits = logits.repeat_interleave(k, 0)
        lengths = lengths.repeat_interleave(k)
        padded = bool((lengths != width).any())
        columns = torch.arange(width + limit, device=self.device)
        numbers: torch.Tensor  # for the positions of a block

        for position in range(limit):
            if position % BLOCK == 0:
                numbers = torch.from_numpy(draws.uniforms(keys, position, BLOCK)).to(self.device)
            token, logprob = draw(logits, numbers[rows, position % BLOCK], sampling)
            alive &= drawn.add(position, rows, alive, token, logprob, self.eos, stops)
            alive &= lengths + position + 1 < context  # a long prompt's samples end before their neighbours'
            living = int(alive.sum())
            if living == 0 or position == limit - 1:
                break
            if living <= KEEP_FRACTION * len(rows):
                kept = alive.nonzero().squeeze(1)
                rows, token, lengths, alive = rows[kept], token[kept], lengths[kept], alive[kept]
                cache.reshape(kept)
            elif cache.full:
                cache.reshape(None)
            mask = None
            if padded:  # (rows, 1, 1, T): a row's prompt stands at the right end of the first `width` positions
                mask = (columns[: cache.length + 1] >= (width - lengths)[:, None])[:, None, None, :]
            logits = self.model(
                input_ids=token[:, None],
                position_ids=(lengths + position).clamp(max=context - 1)[:, None],  # of rows that are over, too
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]

        return drawn.completions(self.policy, k, stops)

    def _prefill(self, batch: list[Request], k: int) -> tuple[DecodingCache, torch.Tensor]:
        """The prompts' caches, left-padded to one width, and the logits (prompts, vocabulary) that follow them.

        Equal prompts, such as the next turns of samples that began with the same step, are read once.
        """
        prompts = [tuple(request.prompt_ids) for request in batch]
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        width = max(map(len, rows))
        ids, mask = (torch.zeros((len(rows), width), dtype=torch.long) for _ in range(2))
        for prompt, row in rows.items():
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        parts: list[list[tuple[torch.Tensor, ...]]] = []
        logits = []
        at_once = max(1, limits.PREFILL_TOKENS // width)
        for part in range(0, len(rows), at_once):
            some = slice(part, part + at_once)
            out = self.model(
                input_ids=ids[some], attention_mask=mask[some], position_ids=places[some],
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            parts.append([(layer.keys, layer.values) for layer in out.past_key_values.layers])
            logits.append(out.logits[:, -1])
            del out  # it holds the keys and values too: let go, so that memory holds them once
        owners = None  # else all is in place, and copies would only take memory
        if len(rows) < len(batch):
            owners = torch.tensor([rows[prompt] for prompt in prompts], device=self.device)
        following = torch.cat(logits)
        return DecodingCache(_by_layer(parts, owners), k), following if owners is None else following[owners]


def _by_layer(
    parts: list[list[tuple[torch.Tensor, ...]]], owners: torch.Tensor | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of all prompts (in the order of `owners`), a layer at a time; that layer's parts are let go."""
    for number in range(len(parts[0])):
        joined = [torch.cat([part[number][which] for part in parts]) for which in (0, 1)]
        for part in parts:
            part[number] = ()
        yield (joined[0], joined[1]) if owners is None else (joined[0][owners], joined[1][owners])


def draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """One token for each row by inverting the cumulative distribution.

    logits (rows, V), uniform (rows,) in [0, 1) → tokens (rows,) and their log-probabilities at temperature 1,
    float32, nats, whatever the temperature and top_p of the draw.
    """
    logits = logits.float()
    top = logits.amax(-1, keepdim=True)
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, -(logits - top).exp().sum(-1).log()  # the argmax's own logit is `top`
    if sampling.temperature == 1 and sampling.top_p == 1:
        mass = (logits - top).exp_().cumsum(-1)
        token = _invert(mass, uniform)
        chosen = logits.gather(-1, token[:, None]) - top
        return token, (chosen - mass[:, -1:].log()).squeeze(-1)
    weight = ((logits - top) / sampling.temperature).exp()
    if sampling.top_p < 1:
        # The nucleus: the most probable tokens up to and including the one that reaches top_p (Holtzman et al. 2020).
        weight, order = weight.sort(dim=-1, descending=True, stable=True)
        mass = weight.cumsum(-1)
        weight = weight.masked_fill(mass - weight >= sampling.top_p * mass[:, -1:], 0)
        token = order.gather(-1, _invert(weight.cumsum(-1), uniform)[:, None]).squeeze(-1)
    else:
        token = _invert(weight.cumsum(-1), uniform)
    chosen = logits.gather(-1, token[:, None]).squeeze(-1)
    return token, chosen - logits.logsumexp(-1)


def _invert(mass: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """First index whose cumulative mass (rows, V) exceeds the uniform share of the total. Never one without mass."""
    total = mass[:, -1]
    # The last float below the total: `uniform * total` may round up to it, and then no index would exceed it.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, target[:, None], right=True).squeeze(-1)


FINISH = ("length", "eos", "stop")


class _Drawn:
    """Tokens as they are drawn, for all samples of a batch."""

    def __init__(self, total: int, limit: int, device: torch.device):
        self.tokens = torch.zeros((total, limit), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((total, limit), device=device)
        self.lengths = torch.zeros(total, dtype=torch.long, device=device)
        self.finish = torch.zeros(total, dtype=torch.long, device=device)  # an index into FINISH

    def add(self, position, rows, alive, token, logprob, eos, stops) -> torch.Tensor:
        """Records one token for each row that is alive. Returns which rows continue, (rows,) bool."""
        self.tokens[rows, position] = token
        self.logprobs[rows, position] = logprob
        self.lengths[rows[alive]] = position + 1
        ended = torch.isin(token, eos) & alive
        self.finish[rows[ended]] = FINISH.index("eos")
        if stops:
            candidates = (stops.may_end[token] & alive & ~ended).nonzero().squeeze(1)
            if len(candidates):
                hit = candidates[stops.found(self.tokens[rows[candidates], : position + 1])]
                ended[hit] = True
                self.finish[rows[hit]] = FINISH.index("stop")
        return ~ended

    def completions(self, policy: LanguageModel, k: int, stops: "_StopStrings | None") -> list[list[Completion]]:
        lengths, finish = self.lengths.tolist(), self.finish.tolist()
        tokens, logprobs = self.tokens.cpu().numpy(), self.logprobs.cpu().numpy().astype(np.float64)
        ids = [tokens[row, :length].tolist() for row, length in enumerate(lengths)]
        texts = policy.decode(ids)
        done = [
            Completion(
                ids[row],
                cut_at_stop(texts[row], stops.stop) if stops else texts[row],
                logprobs[row, :length].tolist(),
                FINISH[finish[row]],
            )
            for row, length in enumerate(lengths)
        ]
        return [done[row : row + k] for row in range(0, len(done), k)]


class _StopStrings:
    """Finds stop strings in generated tokens without decoding every row at every position.

    A stop string can end only at a token that holds its last character (or a piece of it, for characters that
    several tokens spell); only rows that have just drawn such a token are decoded.
    """

    def __init__(self, policy: LanguageModel, stop: tuple[str, ...]):
        self.tokenizer = tokenizer = policy.tokenizer
        self.stop = stop
        last = {text[-1] for text in stop} | {"\ufffd"}
        if " " in last:
            last.add("▁")
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        may_end = [any(c in text or c in (name or "") for c in last) for text, name in zip(texts, names, strict=True)]
        # An output layer that is padded can draw ids that the tokenizer does not know.
        spare = policy.model.get_output_embeddings().weight.shape[0] - len(may_end)
        self.may_end = torch.tensor(may_end + [False] * spare, device=policy.model.device)

    def found(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, T) tokens → (n,) bool: which rows contain a stop string."""
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in self.stop) for text in texts], device=tokens.device)
