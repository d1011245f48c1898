"""llama.cpp through the low-level interface of llama-cpp-python: tokens in, logits out, nothing in between.

Shared by the scripts of this folder. The high-level class is avoided on purpose: it adds BOS, parses special tokens and
samples by rules of its own, so ids would not be comparable.
"""

import ctypes
from importlib.metadata import version

import llama_cpp as ll
import numpy as np

VERSION = version("llama-cpp-python")
_backend_ready = False


@ll.llama_log_callback
def _drop_log(_level, _text, _user_data):
    pass


def _overrides(values):
    """Integer metadata to use instead of the file's, as the array llama.cpp wants: ended by an entry without a key."""
    entries = (ll.llama_model_kv_override * (len(values) + 1))()
    for entry, (key, value) in zip(entries, values.items()):
        entry.tag = ll.LLAMA_KV_OVERRIDE_TYPE_INT
        entry.key = key.encode()
        entry.value.val_i64 = value
    return entries


class Peer:
    """A loaded GGUF. `exact` keeps the cache in F32 and turns flash attention off; otherwise llama.cpp's defaults."""

    def __init__(self, path, n_ctx=1024, n_threads=2, exact=True, verbose=False, overrides=None):
        global _backend_ready
        if not _backend_ready:
            ll.llama_backend_init()
            _backend_ready = True
        if not verbose:
            ll.llama_log_set(_drop_log, ctypes.c_void_p(0))
        model_params = ll.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.kv_overrides = _overrides(overrides or {})
        self.model = ll.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp does not load it (run with --verbose for its reasons)")
        params = ll.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_ctx
        params.n_ubatch = n_ctx
        params.n_threads = n_threads
        params.n_threads_batch = n_threads
        if exact:
            params.type_k = params.type_v = ll.GGML_TYPE_F32
            params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.ctx = ll.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise SystemExit(f"{path}: llama.cpp makes no context")
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.n_vocab = ll.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text, add_special=True):
        """Ids with the model's own BOS rule (none without add_special); special tokens in the text stay text."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (ll.llama_token * room)()
        n = ll.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, False)
        if n < 0:
            raise SystemExit(f"llama_tokenize wants room for {-n} ids, it has {room}")
        return list(ids[:n])

    def forget(self):
        """Empties the cache."""
        ll.llama_memory_clear(ll.llama_get_memory(self.ctx), True)

    def feed(self, ids, position):
        """Logits [len(ids), n_vocab] of new tokens that begin at `position`."""
        n = len(ids)
        batch = ll.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        status = ll.llama_decode(self.ctx, batch)
        ll.llama_batch_free(batch)
        if status != 0:
            raise SystemExit(f"llama_decode gives {status} for {n} tokens at {position}")
        rows = [np.ctypeslib.as_array(ll.llama_get_logits_ith(self.ctx, i), (self.n_vocab,)) for i in range(n)]
        return np.stack(rows).astype(np.float32, copy=True)

    def logits(self, ids):
        """Logits [len(ids), n_vocab] of a prompt, from an empty cache."""
        self.forget()
        return self.feed(ids, 0)

    def greedy(self, ids, n_tokens):
        """Prompt logits, n_tokens greedy ids (they run past end-of-text), and by how much each won over the next best."""
        prompt_logits = self.logits(ids)
        row = prompt_logits[-1]
        new_ids, margins = [], []
        for i in range(n_tokens):
            second, first = np.partition(row, -2)[-2:]
            new_ids.append(int(row.argmax()))
            margins.append(float(first - second))
            if i + 1 < n_tokens:
                row = self.feed(new_ids[-1:], len(ids) + i)[0]
        return prompt_logits, new_ids, margins
