"""Networks in PyTorch that between them use most of what is exported to ONNX.

Small versions of well-known architectures, written from their papers, with sizes that are primes
where the architecture allows it, so that two swapped extents do not cancel. Attention is written
out: PyTorch's FLOP counter finds nothing in fused attention on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Example:
    """A network and what to feed it.

    Attributes:
        shapes: of its inputs, without the batch axis in front.
        vocabulary: the inputs are token numbers below this; 0: they are floating point.
    """

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    vocabulary: int = 0

    def model(self) -> nn.Module:
        """The network as it would be used.

        No two of its parameters are equal: exporters write equal ones once, and all biases start
        as zeros.
        """
        torch.manual_seed(0)
        model = self.build().eval()
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.5, 1.5)
        return model

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        shapes = [(batch, *shape) for shape in self.shapes]
        if self.vocabulary:
            return tuple(torch.randint(0, self.vocabulary, shape) for shape in shapes)
        return tuple(torch.randn(shape) for shape in shapes)


def conv_bn(
    n_in: int, n_out: int, kernel: int, stride: int = 1, group: int = 1, act: type | None = nn.ReLU
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=group, bias=False),
        nn.BatchNorm2d(n_out),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


# --- images --------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    """He et al. (2016): 1x1, 3x3, 1x1, added to the input."""

    def __init__(self, n_in: int, width: int, stride: int, group: int) -> None:
        super().__init__()
        n_out = 4 * width
        self.reduce = conv_bn(n_in, width, 1)
        self.spatial = conv_bn(width, width, 3, stride, group)
        self.expand = conv_bn(width, n_out, 1, act=None)
        self.shortcut = (
            nn.Identity()
            if n_in == n_out and stride == 1
            else conv_bn(n_in, n_out, 1, stride, act=None)
        )

    def forward(self, x: Tensor):
        return F.relu(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Bottleneck blocks; the last one is grouped, as in ResNeXt (Xie et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(
            Bottleneck(8, 6, 1, 1), Bottleneck(24, 6, 1, 1), Bottleneck(24, 10, 2, 2)
        )
        self.fc = nn.Linear(40, 11)

    def forward(self, x: Tensor):
        x = F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1)
        return self.fc(torch.flatten(x, 1))


class MobileNetV1(nn.Module):
    """Howard et al. (2017), table 1; `separable=False` is its table 4's full convolution."""

    PLAN = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5,
            (1024, 2), (1024, 1))  # fmt: skip

    def __init__(self, separable: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
        n_in = 32
        for n_out, stride in self.PLAN:
            if separable:
                layers += [conv_bn(n_in, n_in, 3, stride, n_in), conv_bn(n_in, n_out, 1)]
            else:
                layers.append(conv_bn(n_in, n_out, 3, stride))
            n_in = n_out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d(7)
        self.fc = nn.Linear(n_in, 1000)

    def forward(self, x: Tensor):
        return self.fc(self.pool(self.features(x)).flatten(1))


class SqueezeExcite(nn.Module):
    """Hu et al. (2018): a factor for every channel."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor):
        scale = self.squeeze(x.mean((2, 3), keepdim=True))
        return x * F.hardsigmoid(self.excite(F.relu(scale)))


class InvertedResidual(nn.Module):
    """Sandler et al. (2018) with the attention of Howard et al. (2019)."""

    def __init__(self, n_in: int, expanded: int, n_out: int, stride: int, act: type) -> None:
        super().__init__()
        self.expand = conv_bn(n_in, expanded, 1, act=act)
        self.spatial = conv_bn(expanded, expanded, 5, stride, expanded, act=act)
        self.attention = SqueezeExcite(expanded, 5)
        self.project = conv_bn(expanded, n_out, 1, act=None)
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor):
        out: Tensor = self.project(self.attention(self.spatial(self.expand(x))))
        return x + out if self.adds else out


class MobileNetV3(nn.Module):
    """Inverted residuals with ReLU6 and HardSwish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 7, 3, 2, act=nn.Hardswish)
        self.blocks = nn.Sequential(
            InvertedResidual(7, 19, 7, 1, nn.ReLU6),
            InvertedResidual(7, 23, 11, 2, nn.Hardswish),
        )
        self.head = nn.Sequential(nn.Linear(11, 31), nn.Hardswish(), nn.Dropout(), nn.Linear(31, 5))

    def forward(self, x: Tensor):
        x = self.blocks(self.stem(x))
        return self.head(x.mean((2, 3)))


class DenseNet(nn.Module):
    """Huang et al. (2017): every layer reads the outputs of all before it."""

    def __init__(self, growth: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 11, 3, padding=1)
        width = 11
        self.layers = nn.ModuleList()
        for _ in range(3):
            self.layers.append(self.layer(width, growth, 3))
            width += growth
        self.transition = self.layer(width, 13, 1)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(13, 7)

    @staticmethod
    def layer(n_in: int, n_out: int, kernel: int) -> nn.Sequential:
        """Pre-activation: normalise, activate, convolve."""
        conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU(), conv)

    def forward(self, x: Tensor):
        pieces = [self.stem(x)]
        for layer in self.layers:
            pieces.append(layer(torch.cat(pieces, 1)))
        x = self.pool(self.transition(torch.cat(pieces, 1)))
        return self.classifier(x.amax((2, 3)))


class UNet(nn.Module):
    """Ronneberger et al. (2015): one step up by ConvTranspose, one by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([self.block(3, 5), self.block(5, 10), self.block(10, 14)])
        self.up_learned = nn.ConvTranspose2d(14, 10, 2, stride=2)
        self.refine = self.block(20, 10)
        self.up_grouped = nn.ConvTranspose2d(10, 10, 3, 2, 1, output_padding=1, groups=5)
        self.refine_last = self.block(25, 5)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(5, 2, 1)

    @staticmethod
    def block(n_in: int, n_out: int) -> nn.Sequential:
        """Two convolutions, the second one dilated."""
        return nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(n_out, n_out, 3, padding=2, dilation=2),
            nn.ELU(),
        )

    def forward(self, x: Tensor):
        high = self.down[0](x)
        middle = self.down[1](F.max_pool2d(high, 2))
        low = self.down[2](F.avg_pool2d(middle, 2))
        merged = self.refine(torch.cat((self.up_learned(low), middle), 1))
        both = torch.cat((self.up_grouped(merged), self.up(merged), high), 1)
        return self.head(self.refine_last(both)), F.interpolate(low, scale_factor=2.0)


class ShuffleUnit(nn.Module):
    """Zhang et al. (2018): grouped 1x1, channel shuffle, depthwise, grouped 1x1."""

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.first = conv_bn(channels, channels, 1, group=group)
        self.spatial = conv_bn(channels, channels, 3, group=channels, act=None)
        self.last = conv_bn(channels, channels, 1, group=group, act=None)

    def forward(self, x: Tensor):
        out = self.first(x)
        n, c, h, w = out.shape
        out = out.view(n, self.group, c // self.group, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.relu(x + self.last(self.spatial(out)))


class ShuffleNet(nn.Module):
    """Channel shuffle, channel split."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 21, 3, 2)
        self.units = nn.Sequential(ShuffleUnit(21, 3), ShuffleUnit(21, 7))
        self.multiply = nn.Conv2d(7, 21, 3, groups=7)  # a depth multiplier of 3
        self.fc = nn.Linear(35, 5)

    def forward(self, x: Tensor):
        kept, changed = self.units(self.stem(x)).split((14, 7), 1)
        kept = kept[:, :, 1:-1, 1:-1]
        x = torch.cat((kept, self.multiply(changed)), 1)
        return self.fc(x.mean((-2, -1)))


class ConvNeXt(nn.Module):
    """Liu et al. (2022): depthwise 7x7, then channels-last normalisation and dense layers."""

    def __init__(self, channels: int = 11) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 4, 4)
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))
        self.head = nn.Linear(channels, 7)

    def forward(self, x: Tensor):
        x = self.patches(x)
        out = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        out = self.scale * self.project(F.gelu(self.expand(out)))
        x = x + out.permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class PReLUNet(nn.Module):
    """Group and instance normalisation, learned slopes, padding by reflection."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(2),
            nn.Conv2d(3, 15, 5),
            nn.GroupNorm(5, 15),
            nn.PReLU(15),
            nn.Conv2d(15, 7, (3, 1), (2, 1)),
            nn.InstanceNorm2d(7, affine=True),
            nn.PReLU(),
            nn.Conv2d(7, 5, (1, 5), padding=(0, 2), dilation=(1, 1)),
            nn.Softplus(),
        )

    def forward(self, x: Tensor):
        return self.layers(x)


class SuperResolution(nn.Module):
    """Shi et al. (2016): channels become pixels, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 11, 5, padding=2)
        self.subpixels = nn.Conv2d(11, 2 * 9, 3, padding=1)
        self.grow = nn.PixelShuffle(3)
        self.shrink = nn.PixelUnshuffle(3)
        self.compare = nn.Conv2d(18, 3, 1)

    def forward(self, x: Tensor):
        large = self.grow(self.subpixels(torch.tanh(self.features(x))))
        return large, self.compare(self.shrink(large))


class Video(nn.Module):
    """Tran et al. (2015): convolutions in three dimensions, one of them by factors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 5, 3, padding=1, bias=False),
            nn.BatchNorm3d(5),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(5, 10, (1, 3, 3), (1, 2, 2)),
            nn.Conv3d(10, 10, (3, 1, 1), padding=(1, 0, 0), groups=5),
            nn.ConvTranspose3d(10, 7, (1, 2, 2), (1, 2, 2)),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(7, 3),
        )

    def forward(self, x: Tensor):
        return self.layers(x)


# --- tokens --------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Vaswani et al. (2017), written out; one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor):
        n, length, width = x.shape
        depth = width // self.heads
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, depth).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = torch.softmax(query @ key.transpose(-2, -1) * depth**-0.5, -1)
        return self.out((weights @ value).transpose(1, 2).reshape(n, length, width))


class EncoderLayer(nn.Module):
    """Attention and two dense layers, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Dosovitskiy et al. (2021): patches, a class token, learned positions."""

    def __init__(self, width: int = 15, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 3 * 5 + 1, width))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, 31) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 7)

    def forward(self, x: Tensor):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.position
        return self.head(self.norm(self.layers(x))[:, 0])


class Mixer(nn.Module):
    """Tolstikhin et al. (2021): dense layers across positions, then across channels."""

    def __init__(self, width: int = 7, positions: int = 15) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.positions = nn.Sequential(
            nn.Linear(positions, 11), nn.GELU(approximate="tanh"), nn.Linear(11, positions)
        )
        self.channels = nn.Sequential(nn.Linear(width, 13), nn.SiLU(), nn.Linear(13, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.positions(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class Text(nn.Module):
    """An encoder of tokens whose word scores use the embedding once more."""

    def __init__(self, vocabulary: int = 37, width: int = 12) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(17, width)
        self.encoder = EncoderLayer(width, 2, 23)
        self.decoder = nn.Linear(width, vocabulary, bias=False)
        self.decoder.weight = self.embedding.weight
        self.classes = nn.Linear(width, 3)

    def forward(self, tokens: Tensor):
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1]))
        x = self.encoder(x)
        return self.decoder(x), self.classes(x.mean(1))


class HeadMix(nn.Module):
    """A dense layer for each head."""

    def __init__(self, heads: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, n_in, n_out))

    def forward(self, x: Tensor):
        return torch.einsum("nqhe,hef->nqhf", x, self.weight)


class Einsum(nn.Module):
    """Linear attention (Katharopoulos et al., 2020) as products over named axes."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = HeadMix(heads, width // heads, 5)

    def forward(self, x: Tensor, y: Tensor):
        query, key, value = (
            layer(data).unflatten(-1, (self.heads, -1))
            for layer, data in ((self.query, x), (self.key, y), (self.value, y))
        )
        memory = torch.einsum("nkhd,nkhe->nhde", key.softmax(1), value)
        return self.mix(torch.einsum("nqhd,nhde->nqhe", query, memory))


class Recurrent(nn.Module):
    """Sound: convolutions along time, then LSTM both ways and GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(5, 11, 7, 2, 3)
        self.separate = nn.Conv1d(11, 11, 3, padding=1, groups=11, bias=False)
        self.up = nn.ConvTranspose1d(11, 10, 4, 2, 1)
        self.lstm = nn.LSTM(10, 7, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(14, 13, batch_first=True)
        self.head = nn.Linear(13, 2)

    def forward(self, x: Tensor):
        x = F.max_pool1d(F.relu(self.separate(self.conv(x))), 2)
        x = self.lstm(self.up(x).transpose(1, 2))[0]
        return self.head(self.gru(x)[0])


class Simple(nn.Module):
    """Elman (1990): one matrix product a step, on each side."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(5, 7, batch_first=True, bias=False)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor):
        return self.head(self.rnn(x)[0][:, -1])


EXAMPLES = {
    "resnet": Example(ResNet, ((3, 35, 53),)),
    "mobilenet-v3": Example(MobileNetV3, ((3, 29, 37),)),
    "densenet": Example(DenseNet, ((3, 14, 22),)),
    "unet": Example(UNet, ((3, 20, 28),)),
    "shufflenet": Example(ShuffleNet, ((3, 23, 31),)),
    "convnext": Example(ConvNeXt, ((3, 12, 20),)),
    "prelu": Example(PReLUNet, ((3, 13, 17),)),
    "super-resolution": Example(SuperResolution, ((1, 7, 13),)),
    "video": Example(Video, ((3, 5, 14, 22),)),
    "vit": Example(ViT, ((3, 12, 20),)),
    "mixer": Example(Mixer, ((3, 12, 20),)),
    "text": Example(Text, ((17,),), vocabulary=37),
    "einsum": Example(Einsum, ((7, 12), (17, 12))),
    "recurrent": Example(Recurrent, ((5, 12),)),
    "simple": Example(Simple, ((11, 5),)),
}
