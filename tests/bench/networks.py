"""The networks of the benchmarks in PyTorch, as their references compute them.

The classes hold what our configurations in `tests/bench/networks.rs` hold, number by number; the
benchmark compares the counts.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def conv3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResBlock(nn.Module):
    """Residual block of guided diffusion; `resample` is `None`, "down" or "up"."""

    def __init__(self, inputs, outputs, resample=None):
        super().__init__()
        self.resample = resample
        self.in_norm, self.in_conv = nn.GroupNorm(32, inputs), conv3(inputs, outputs)
        self.embed = nn.Linear(128, 2 * outputs)
        self.out_norm, self.out_conv = nn.GroupNorm(32, outputs), conv3(outputs, outputs)
        self.dropout = nn.Dropout(0.2)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def resized(self, x):
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def forward(self, x, embedding):
        h = self.in_conv(self.resized(F.silu(self.in_norm(x))))
        scale, shift = self.embed(F.silu(embedding))[:, :, None, None].chunk(2, 1)
        h = F.silu(self.out_norm(h) * (1 + scale) + shift)
        return self.skip(self.resized(x)) + self.out_conv(self.dropout(h))


class QkvAttention(nn.Module):
    """Attention between all pixels, heads of 32 channels."""

    def __init__(self, channels):
        super().__init__()
        self.heads = channels // 32
        self.norm = nn.GroupNorm(32, channels)
        self.qkv, self.proj = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x, _):
        n, channels, *size = x.shape
        x = x.reshape(n, channels, -1)
        qkv = self.qkv(self.norm(x)).reshape(n * self.heads, 3 * 32, -1)
        q, k, v = qkv.split(32, 1)
        scale = 32**-0.25
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale).softmax(-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(n, channels, -1)
        return (x + self.proj(h)).reshape(n, channels, *size)


class EmDiffuse(nn.Module):
    """EMDiffuse's U-Net of guided diffusion; γ is 0.5."""

    def __init__(self):
        super().__init__()
        widths = [32, 64, 128, 256]
        self.embed = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
        self.first = conv3(2, 32)
        now, skips, down = 32, [32], []
        for level, width in enumerate(widths):
            for _ in range(2):
                down.append(ResBlock(now, width))
                now = width
                skips.append(now)
            if level < 3:
                down.append(ResBlock(now, now, "down"))
                skips.append(now)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([ResBlock(now, now), QkvAttention(now), ResBlock(now, now)])
        up = []
        for level, width in reversed(list(enumerate(widths))):
            for i in range(3):
                block = [ResBlock(now + skips.pop(), width)]
                now = width
                if level > 0 and i == 2:
                    block.append(ResBlock(now, now, "up"))
                up.append(nn.ModuleList(block))
        self.up = nn.ModuleList(up)
        self.out = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), conv3(now, 1))

    def forward(self, x):
        gamma = torch.full((1, 1), 0.5)
        angles = gamma * torch.exp(-math.log(10000) * torch.arange(16) / 16)
        embedding = self.embed(torch.cat([angles.cos(), angles.sin()], 1))
        h = self.first(x)
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for blocks in self.up:
            h = torch.cat([h, skips.pop()], 1)
            for block in blocks:
                h = block(h, embedding)
        return self.out(h)


class BasicUnet(nn.Module):
    """MONAI's BasicUNet in 3-D."""

    def __init__(self):
        super().__init__()
        f = [32, 32, 64, 128, 256, 32]

        def two(inputs, outputs):
            layers = []
            for i in (inputs, outputs):
                norm = nn.InstanceNorm3d(outputs, affine=True)
                layers += [nn.Conv3d(i, outputs, 3, padding=1), norm, nn.LeakyReLU(0.1, inplace=True)]
            return nn.Sequential(*layers)

        self.first = two(1, f[0])
        self.down = nn.ModuleList(two(f[i], f[i + 1]) for i in range(4))
        ups = [(f[4], f[3], f[3]), (f[3], f[2], f[2]), (f[2], f[1], f[1]), (f[1], f[1], f[5])]
        self.up = nn.ModuleList(nn.ConvTranspose3d(i, u, 2, 2) for i, u, _ in ups)
        skips = [f[3], f[2], f[1], f[0]]
        self.convs = nn.ModuleList(two(s + u, o) for s, (_, u, o) in zip(skips, ups))
        self.last = nn.Conv3d(f[5], 1, 1)

    def forward(self, x):
        scales = [self.first(x)]
        for block in self.down:
            scales.append(block(F.max_pool3d(scales[-1], 2)))
        h = scales.pop()
        for up, convs in zip(self.up, self.convs):
            h = convs(torch.cat([scales.pop(), up(h)], 1))
        return self.last(h)


class DnCnn(nn.Module):
    def __init__(self, width=64, depth=17):
        super().__init__()
        layers = [conv3(1, width), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [conv3(width, width), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers, conv3(width, 1))

    def forward(self, x):
        return x - self.model(x)


def reflected(inputs, outputs, stride, bias):
    return nn.Conv2d(inputs, outputs, 4, stride, 1, bias=bias, padding_mode="reflect")


class Pix2pixUnet(nn.Module):
    """NectarGAN's generator."""

    def __init__(self):
        super().__init__()
        widths = [64, 128, 256, 512, 512, 512, 512]

        def down(inputs, outputs):
            conv, norm = reflected(inputs, outputs, 2, False), nn.InstanceNorm2d(outputs)
            return nn.Sequential(conv, norm, nn.LeakyReLU(0.2))

        def up(inputs, outputs):
            conv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
            return nn.Sequential(conv, nn.InstanceNorm2d(outputs), nn.ReLU())

        self.first = nn.Sequential(reflected(3, 64, 2, True), nn.LeakyReLU(0.2))
        self.down = nn.ModuleList(down(*pair) for pair in zip(widths, widths[1:]))
        self.bottleneck = nn.Sequential(reflected(512, 512, 2, True), nn.ReLU())
        ups = [up(512, 512)] + [up(2 * widths[7 - i], widths[6 - i]) for i in range(1, 7)]
        self.up = nn.ModuleList(ups)
        self.last = nn.Sequential(nn.ConvTranspose2d(128, 3, 4, 2, 1), nn.Tanh())
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(skips[-1]))
        h = self.bottleneck(skips[-1])
        for i, block in enumerate(self.up):
            h = block(h if i == 0 else torch.cat([h, skips[-i]], 1))
            if i < 3:
                h = self.dropout(h)
        return self.last(torch.cat([h, skips[0]], 1))


class PatchGan(nn.Module):
    """NectarGAN's discriminator."""

    def __init__(self):
        super().__init__()
        layers = [reflected(6, 64, 2, True), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in [(64, 128, 2), (128, 256, 1)]:
            conv = reflected(inputs, outputs, stride, False)
            layers += [conv, nn.InstanceNorm2d(outputs), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, reflected(256, 1, 1, True))

    def forward(self, x, y):
        return self.model(torch.cat([x, y], 1))


def mlp(width, hidden):
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class SwinBlock(nn.Module):
    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = mlp(width, 2 * width)
        axis = torch.arange(window)
        at = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer("rows", apart[0] * (2 * window - 1) + apart[1])

    def cut(self, x):
        """`[N, H, W, C]` into windows `[N·g, window², C]`."""
        n, h, w, c = x.shape
        s = self.window
        return x.view(n, h // s, s, w // s, s, c).transpose(2, 3).reshape(-1, s * s, c)

    def mask(self, h, w):
        """-100 between pixels that only meet because the image was rolled."""
        ends = torch.zeros(1, h, w, 1)
        slices = [slice(-self.window), slice(-self.window, -self.shift), slice(-self.shift, None)]
        for i, rows in enumerate(slices):
            for j, columns in enumerate(slices):
                ends[:, rows, columns] = 3 * i + j
        ends = self.cut(ends).squeeze(2)
        return (ends[:, None] != ends[:, :, None]).float() * -100

    def forward(self, x, mask):
        n, h, w, c = x.shape
        s = self.window
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.cut(y)
        q, k, v = self.qkv(y).view(-1, s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.table[self.rows.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1)
        if self.shift:
            grouped = scores.view(n, -1, self.heads, s * s, s * s)
            scores = (grouped + mask[None, :, None]).view(scores.shape)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, s * s, c)
        y = self.proj(y).view(n, h // s, w // s, s, s, c).transpose(2, 3).reshape(n, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class SwinIrLight(nn.Module):
    """SwinIR's lightweight network for super-resolution by 2, on images of whole windows."""

    def __init__(self, width=60, heads=6, window=8):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.first, self.patch_norm = conv3(3, width), nn.LayerNorm(width)
        shifts = [0, window // 2] * 3
        layer = lambda: nn.ModuleList(SwinBlock(width, heads, window, shift) for shift in shifts)
        self.layers = nn.ModuleList(layer() for _ in range(4))
        self.convs = nn.ModuleList(conv3(width, width) for _ in range(4))
        self.norm, self.after = nn.LayerNorm(width), conv3(width, width)
        self.up = conv3(width, 3 * 4)
        self.masks = {}

    def forward(self, x):
        size = x.shape[2:]
        if size not in self.masks:
            self.masks[size] = self.layers[0][1].mask(*size)
        first = self.first(x - self.mean)
        h = self.patch_norm(first.permute(0, 2, 3, 1))
        for blocks, conv in zip(self.layers, self.convs):
            inner = h
            for block in blocks:
                inner = block(inner, self.masks[size])
            h = h + conv(inner.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        h = self.after(self.norm(h).permute(0, 3, 1, 2)) + first
        return F.pixel_shuffle(self.up(h), 2) + self.mean


class VitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = mlp(width, 4 * width)

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        y = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.proj(y.transpose(1, 2).reshape(n, tokens, width))
        return x + self.mlp(self.norm2(x))


class VitB(nn.Module):
    """ViT-B/16 on a grey image of 224×224, every token mapped back to its patch, residual."""

    def __init__(self, width=768):
        super().__init__()
        self.embed = nn.Conv2d(1, width, 16, 16)
        self.positions = nn.Parameter(torch.randn(1, 196, width) * 0.02)
        self.blocks = nn.Sequential(*(VitBlock(width, 12) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 256)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        pixels = self.head(self.norm(self.blocks(tokens)))
        image = pixels.view(-1, 14, 14, 16, 16).transpose(2, 3)
        return image.reshape(-1, 1, 224, 224) + x


class GrogMlp(nn.Module):
    """Implicit GROG: 8 coils, 5 sources in a plane, a complex last layer; waves of random projections."""

    def __init__(self, projections=0):
        super().__init__()
        self.projection = torch.randn(10, projections) if projections else None
        layers = []
        for inputs in (10 + 2 * projections, 256, 256):
            layers += [nn.Linear(inputs, 256), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(256, 8 * 8 * 5, dtype=torch.complex64)

    def forward(self, features, sources):
        """Sources may have several rows for each of the features."""
        n = len(features)
        if self.projection is not None:
            angles = features @ self.projection
            features = torch.cat([features, angles.cos(), angles.sin()], 1)
        kernel = self.last(self.layers(features).to(torch.complex64)).view(n, 8, 40)
        targets = kernel @ sources.view(n, -1, 40).transpose(1, 2)
        return targets.transpose(1, 2).reshape(-1, 8)


NETWORKS = {
    "emdiffuse": EmDiffuse,
    "basic_unet": BasicUnet,
    "dncnn": DnCnn,
    "dncnn_small": lambda: DnCnn(32, 8),
    "swinir_light": SwinIrLight,
    "vit_b": VitB,
}
