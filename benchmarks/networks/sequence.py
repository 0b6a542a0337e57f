"""Networks over text and sound: BERT, GPT, a text recogniser, an audio classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.case import Case, floats, image_cases, tokens
from benchmarks.networks.layers import EncoderLayer, Mlp


class BertLayer(nn.Module):
    """Attention and dense layers, each added and then normalised; three matrices, not one.

    Padding scores -1e9 or so before the softmax, written out as in the reference code.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        n, length, width = x.shape
        query, key, value = (
            layer(x).view(n, length, self.heads, -1).permute(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        mixed = F.softmax(scores + bias, -1) @ value
        x = self.norm1(x + self.out(mixed.permute(0, 2, 1, 3).reshape(n, length, width)))
        out: Tensor = self.norm2(x + self.mlp(x))
        return out


class Bert(nn.Module):
    """Devlin et al. (2019), "BERT", classifying; sizes by Turc et al. (2019), "Well-Read Students".

    Takes token numbers and a mask that is 1 for tokens and 0 for padding, (n, length) both.
    """

    VOCABULARY = 30522

    def __init__(self, depth: int = 4, width: int = 256) -> None:
        super().__init__()
        self.word = nn.Embedding(self.VOCABULARY, width)
        self.position, self.kind = nn.Embedding(512, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, 1e-12)
        self.layers = nn.ModuleList(BertLayer(width, width // 64) for _ in range(depth))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, numbers: Tensor, mask: Tensor) -> Tensor:
        place = torch.arange(numbers.shape[1], device=numbers.device)
        kind = torch.zeros_like(numbers)
        x = self.norm(self.word(numbers) + self.position(place) + self.kind(kind))
        bias = (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
        for layer in self.layers:
            x = layer(x, bias)
        out: Tensor = self.classifier(torch.tanh(self.pooler(x[:, 0])))
        return out


class Gpt(nn.Module):
    """Radford et al. (2019), GPT-2: next-token scores, tied to the embedding.

    The default is "gpt-mini" of Karpathy's minGPT (2020), with byte-pair tokens.
    """

    VOCABULARY = 50257

    def __init__(
        self, depth: int = 6, width: int = 192, heads: int = 6, fused: bool = True
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(self.VOCABULARY, width)
        nn.init.normal_(self.word.weight, std=0.02)
        self.position = nn.Parameter(0.02 * torch.randn(1024, width))
        self.layers = nn.Sequential(
            *(EncoderLayer(width, heads, fused, causal=True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.word(numbers) + self.position[: numbers.shape[1]]
        return F.linear(self.norm(self.layers(x)), self.word.weight)


class TextRecogniser(nn.Module):
    """Shi et al. (2017), "An End-to-End Trainable Neural Network for Text Recognition": CRNN.

    Grey images of 32 rows become (n, columns, classes) at a quarter of the columns.
    """

    def __init__(self, width: int = 64, hidden: int = 256, classes: int = 37) -> None:
        super().__init__()
        plan: Sequence[tuple[int, bool, tuple[int, int] | None]] = (
            (1, False, (2, 2)),
            (2, False, (2, 2)),
            (4, False, None),
            (4, False, (2, 1)),
            (8, True, None),
            (8, True, (2, 1)),
        )
        layers: list[nn.Module] = []
        n_in = 1
        for factor, normalised, pool in plan:
            n_out = factor * width
            layers.append(nn.Conv2d(n_in, n_out, 3, padding=1))
            layers += [nn.BatchNorm2d(n_out)] if normalised else []
            layers.append(nn.ReLU(inplace=True))
            if pool == (2, 1):
                layers.append(nn.MaxPool2d(2, (2, 1), (0, 1)))
            elif pool:
                layers.append(nn.MaxPool2d(2, 2))
            n_in = n_out
        self.features = nn.Sequential(*layers, nn.Conv2d(n_in, n_in, 2), nn.ReLU(inplace=True))
        self.lstm = nn.LSTM(n_in, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.features(x).squeeze(2).transpose(1, 2)
        out: Tensor = self.head(self.lstm(columns)[0])
        return out


class AudioClassifier(nn.Module):
    """Dai et al. (2017), "Very Deep Convolutional Neural Networks for Raw Waveforms": M5.

    A gated recurrent unit takes the place of the mean over time, as in Choi et al. (2017),
    "Convolutional Recurrent Neural Networks for Music Classification".

    Args:
        width: of the first convolution.
        hidden: of the recurrent layer; 0: the mean, as in M5.
    """

    def __init__(self, width: int = 128, hidden: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 1
        for factor, kernel, stride in ((1, 80, 4), (1, 3, 1), (2, 3, 1), (4, 3, 1)):
            n_out = factor * width
            layers += [
                nn.Conv1d(n_in, n_out, kernel, stride),
                nn.BatchNorm1d(n_out),
                nn.ReLU(),
                nn.MaxPool1d(4),
            ]
            n_in = n_out
        self.features = nn.Sequential(*layers)
        self.gru = nn.GRU(n_in, hidden, batch_first=True) if hidden else None
        self.head = nn.Linear(hidden or n_in, 35)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        pooled = x.mean(2) if self.gru is None else self.gru(x.transpose(1, 2))[0][:, -1]
        out: Tensor = self.head(pooled)
        return out


def masked_tokens(batch: int, length: int) -> tuple[Tensor, ...]:
    """Tokens, and a mask under which the last eighth of them is padding."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[:, length - length // 8 :] = 0
    return (*tokens(Bert.VOCABULARY, (batch, length)), mask)


def _along(
    architecture: str,
    build: Callable[[], nn.Module],
    inputs: Callable[[int, int], tuple[Tensor, ...]],
    sizes: Iterable[tuple[int, int]],
) -> tuple[Case, ...]:
    """Cases for every batch size and length in `sizes`."""
    return tuple(
        Case(
            f"{architecture}-b{batch}-{length}",
            architecture,
            build,
            partial(inputs, batch, length),
        )
        for batch, length in sizes
    )


def _wave(batch: int, length: int) -> tuple[Tensor, ...]:
    return floats((batch, 1, length))


def _subwords(batch: int, length: int) -> tuple[Tensor, ...]:
    return tokens(Gpt.VOCABULARY, (batch, length))


recogniser_half = partial(TextRecogniser, 32, 128)

CASES = (
    *_along(
        "bert_tiny",
        partial(Bert, 2, 128),
        masked_tokens,
        ((1, 64), (1, 128), (1, 256), (2, 64), (4, 128)),
    ),
    *_along("bert_mini", Bert, masked_tokens, ((1, 32), (1, 128), (1, 256), (4, 64))),
    *_along("gpt_mini", Gpt, _subwords, ((1, 16), (1, 64), (1, 256), (4, 64))),
    *_along("gpt_written_out", partial(Gpt, fused=False), _subwords, ((1, 64),)),
    *image_cases("crnn", TextRecogniser, {1: ((32, 100), (32, 256)), 2: ((32, 256),)}, channels=1),
    *image_cases(
        "crnn_half",
        recogniser_half,
        {1: ((32, 128), (32, 256), (32, 320)), 4: ((32, 128),)},
        channels=1,
    ),
    *_along("m5_gru", AudioClassifier, _wave, ((1, 8000), (1, 16000), (1, 32000), (4, 16000))),
    *_along("m5", partial(AudioClassifier, hidden=0), _wave, ((1, 16000), (4, 8000))),
)
