"""The network of ``model=vit``: an image as a row of patches, and blocks of attention over them."""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention over tokens [batch, tokens, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        split = self.query_key_value(tokens).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): normalised before, so that the sum is carried unchanged."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.attention_dropout = nn.Dropout(dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention_dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """See ``models.vit.ViT``. From images [batch, channels, height, width] to logits [batch, classes]."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        patch: int,
        depth: int,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
        pool: str,
    ) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        tokens = (height // patch) * (image_width // patch)
        self.patch_embedding = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if pool == "token" else None
        self.position_embedding = nn.Parameter(torch.empty(1, tokens + (pool == "token"), width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, hidden, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        self._start()

    def _start(self) -> None:
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                # Query, key and value are three layers in one weight.
                for part in layer.weight.data.chunk(3 if name.endswith("query_key_value") else 1):
                    nn.init.xavier_uniform_(part)
                nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.patch_embedding.weight, nonlinearity="linear")
        assert self.patch_embedding.bias is not None
        nn.init.zeros_(self.patch_embedding.bias)

    def with_learned(self, tokens: torch.Tensor) -> torch.Tensor:
        """The class token goes before ``tokens`` where there is one, and to each its position's vector is added."""
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.position_embedding

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.with_learned(self.patch_embedding(images).flatten(2).transpose(1, 2))
        tokens = self.norm(self.blocks(self.dropout(tokens)))
        pooled = tokens.mean(1) if self.class_token is None else tokens[:, 0]
        return self.head(pooled)  # type: ignore[no-any-return]
