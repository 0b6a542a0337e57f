"""Multi-head attention with some of its heads removed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latency_client.errors import PruningError
from latency_client.structure import BoolArray


class PrunedMultiheadAttention(nn.Module):
    """`nn.MultiheadAttention` whose heads need not fill its width.

    The same call and the same results, for the heads that are left.
    """

    def __init__(self, source: nn.MultiheadAttention, heads: int, head_dim: int) -> None:
        """Take over what the heads share; the projections are set by the caller."""
        super().__init__()
        self.embed_dim = source.embed_dim
        self.num_heads = heads
        self.head_dim = head_dim
        self.dropout = source.dropout
        self.batch_first = source.batch_first
        # nn.TransformerEncoderLayer looks at these before it takes its fused path
        self._qkv_same_embed_dim = False
        self.in_proj_weight = source.in_proj_weight
        self.in_proj_bias = source.in_proj_bias
        self.out_proj = source.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`."""
        unbatched = query.ndim == 2
        tensors = [query, key, value]
        if unbatched:
            tensors = [t.unsqueeze(0) for t in tensors]
        elif not self.batch_first:
            tensors = [t.transpose(0, 1) for t in tensors]
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(t, w, b).view(*t.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for t, w, b in zip(tensors, weights, biases, strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        rate = self.dropout if self.training else 0.0
        seen = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            seen = F.dropout((scores if mask is None else scores + mask).softmax(-1), rate)
            out = seen @ v
            seen = seen.mean(dim=1) if average_attn_weights else seen
        else:
            causal = is_causal and mask is None
            out = F.scaled_dot_product_attention(q, k, v, mask, rate, causal)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if unbatched:
            return out[0], None if seen is None else seen[0]
        return (out if self.batch_first else out.transpose(0, 1)), seen

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, query: Tensor
    ) -> Tensor | None:
        found = None
        if attn_mask is not None:
            found = _additive(attn_mask, query)
            if found.ndim == 3:
                # one mask a head was made for all heads of the model before pruning
                found = found.view(query.shape[0], -1, *found.shape[1:])
                if found.shape[1] != self.num_heads:
                    raise PruningError(
                        f"attn_mask has {found.shape[1]} heads, {self.num_heads} are left"
                    )
        if padding is not None:
            own = _additive(padding, query)[:, None, None, :]
            found = own if found is None else found + own
        return found


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def pruned_attention(
    path: str, module: nn.MultiheadAttention, rows: BoolArray
) -> PrunedMultiheadAttention:
    """An attention without the heads whose rows of the input projection are gone.

    Args:
        rows: (3 * width,) which rows stay.

    Raises:
        PruningError: if parts of heads would go, or the projections are not one matrix.
    """
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise PruningError(
            f"attention {path!r} has separate projections or added keys; its heads cannot be "
            f"removed: keep them with exclude=['^{path}']"
        )
    depth = module.embed_dim // module.num_heads
    heads = rows.reshape(3, module.num_heads, depth)
    whole = np.asarray(heads.all(axis=2))  # (3, heads)
    if (np.asarray(heads.any(axis=2)) != whole).any() or (whole != whole[:1]).any():
        raise PruningError(f"attention {path!r} would lose parts of heads")
    return PrunedMultiheadAttention(module, int(np.count_nonzero(whole[0])), depth)
