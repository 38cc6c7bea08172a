"""The network of the head `adapter`: residual query adapter and in-context transformer. torch.

After V0 (arXiv 2602.03584, section 3.2): static queries, plus an offset made from the prompt, attend to the
encoder's states; a classifier that is given the context's rows and outcomes reads the result.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

PIECE = 64
"""Columns of a prompt's vector that form one key and value."""
QUERIES, WIDTH, ATTENTION_HEADS = 168, 6, 3
"""V0's adapter: 168 queries of width 6 in 3 heads, 1,008 features."""
MODEL, LAYERS = 64, 3


class QueryAdapter(nn.Module):
    """Maps (N, F) prompt vectors to (N, 1008) features."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.pieces = -(-width // PIECE)
        self.place_SK = nn.Parameter(0.02 * torch.randn(self.pieces, PIECE))
        self.query_QW = nn.Parameter(torch.randn(QUERIES, WIDTH))
        last = nn.Linear(MODEL, QUERIES * WIDTH)
        # At first the queries of every prompt are the static ones.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.offset = nn.Sequential(
            nn.Linear(width, MODEL), nn.LayerNorm(MODEL), nn.GELU(), nn.Dropout(dropout), last
        )
        self.key, self.value = nn.Linear(PIECE, WIDTH), nn.Linear(PIECE, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x_NF: torch.Tensor) -> torch.Tensor:
        rows, width = x_NF.shape
        state_NSK = functional.pad(x_NF, (0, self.pieces * PIECE - width)).view(rows, self.pieces, PIECE)
        state_NSK = state_NSK + self.place_SK
        query_NQW = self.query_QW + self.offset(x_NF).view(rows, QUERIES, WIDTH)
        q, k, v = (
            part.view(rows, -1, ATTENTION_HEADS, WIDTH // ATTENTION_HEADS).transpose(1, 2)
            for part in (query_NQW, self.key(state_NSK), self.value(state_NSK))
        )
        read_NQW = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, QUERIES, -1)
        features: torch.Tensor = self.out(read_NQW).flatten(1)
        return features


class InContext(nn.Module):
    """Maps context rows (features, outcome) and queries to one logit per query.

    Queries see the context but not each other; the order of the rows does not matter.
    """

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.adapter = QueryAdapter(width, dropout)
        self.enter = nn.Sequential(nn.Linear(QUERIES * WIDTH, MODEL), nn.LayerNorm(MODEL))
        self.outcome = nn.Linear(2, MODEL)
        self.asked = nn.Parameter(torch.zeros(MODEL))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                MODEL, 4, 2 * MODEL, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.exit = nn.Sequential(nn.LayerNorm(MODEL), nn.Linear(MODEL, 1))

    def embed(self, x_NF: torch.Tensor) -> torch.Tensor:
        """Embed (N, F) prompt vectors as (N, MODEL), in the same way for context and queries."""
        embedded: torch.Tensor = self.enter(self.adapter(x_NF))
        return embedded

    def forward(
        self, row_TNM: torch.Tensor, rate_TN: torch.Tensor, count_TN: torch.Tensor, query_TQM: torch.Tensor
    ) -> torch.Tensor:
        """Return (T, Q) logits of T tasks, relative to each context's own mean."""
        mean_T1 = ((rate_TN * count_TN).sum(1) + 1.0) / (count_TN.sum(1) + 2.0)
        mean_T1 = mean_T1[:, None]
        seen_TN2 = torch.stack([(rate_TN - mean_T1) * 2.0, torch.log1p(count_TN)], dim=-1)
        x_TLM = torch.cat([row_TNM + self.outcome(seen_TN2), query_TQM + self.asked], dim=1)
        rows, length = row_TNM.shape[1], x_TLM.shape[1]
        hidden_LL = torch.ones(length, length, dtype=torch.bool)
        hidden_LL[:, :rows] = False
        hidden_LL.fill_diagonal_(False)
        for block in self.blocks:
            x_TLM = block(x_TLM, src_mask=hidden_LL)
        logit_TQ: torch.Tensor = self.exit(x_TLM[:, rows:]).squeeze(-1) + torch.logit(mean_T1)
        return logit_TQ


def loss_of(logit_TQ: torch.Tensor, rate_TQ: torch.Tensor) -> torch.Tensor:
    """Return 0.25 x pairwise ranking + 0.75 x soft cross-entropy (V0, section 3.3); pairs share a context."""
    soft = functional.binary_cross_entropy_with_logits(logit_TQ, rate_TQ)
    apart_TQQ = rate_TQ[:, :, None] - rate_TQ[:, None, :]
    better_TQQ = apart_TQQ > 0.0
    if not bool(better_TQQ.any()):
        return 0.75 * soft
    ranked = -functional.logsigmoid(logit_TQ[:, :, None] - logit_TQ[:, None, :])[better_TQQ].mean()
    return 0.25 * ranked + 0.75 * soft
