"""PyTorch's side of the benchmarks: `peer.py LAYOUT MODE NAME SHAPE...`.

Speaks as `main.rs` does, of the same works. LAYOUT is `nchw` or `channels_last`; on a GPU (`LIMPID_BENCH_GPU`), where
images are channels-last and factors bf16, it is `eager` or `compiled`.
"""

import json
import math
import os
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

import mri
from networks import NETWORKS, GrogMlp, PatchGan, Pix2pixUnet

GPU = "LIMPID_BENCH_GPU" in os.environ
REPETITION = 0.3  # seconds that a repetition lasts at least


def count(*modules):
    """Real numbers that are trained; a complex one is two."""
    numbers = lambda p: p.numel() * (2 if p.is_complex() else 1)
    return sum(numbers(p) for module in modules for p in module.parameters())


class Peer:
    def __init__(self, layout):
        self.last = GPU or layout == "channels_last"
        self.compiled = layout == "compiled"

    def laid(self, what):
        """A tensor or module in the layout that is measured."""
        if not self.last:
            return what
        if isinstance(what, nn.Module):
            for rank, layout in [(4, torch.channels_last), (5, torch.channels_last_3d)]:
                for p in what.parameters():
                    if p.dim() == rank:
                        p.data = p.data.contiguous(memory_format=layout)
            return what
        layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(what.dim())
        return what.contiguous(memory_format=layout) if layout else what

    def numbers(self, *shape, dtype=None):
        return self.laid(torch.randn(*shape, dtype=dtype))

    def work(self, mode, name, shapes):
        """Trained numbers, and what is measured."""
        if name == "ceiling_copy":
            x = self.numbers(*shapes[0])
            y = torch.empty_like(x)
            return 0, lambda: y.copy_(x)
        if name == "ceiling_matmul":
            a, b = (self.numbers(*shape, dtype=torch.bfloat16) for shape in shapes)
            return 0, lambda: a @ b
        if name.startswith("mri_"):
            return mri.work(mode, name, shapes)
        if name == "pix2pix":
            return self.pix2pix(*shapes)
        if name == "grog_mlp":
            return self.grog(*shapes)
        if name in NETWORKS:
            net = self.laid(NETWORKS[name]())
            x = self.numbers(*shapes[0])
            if self.compiled:
                net = torch.compile(net)
            if mode == "bf16":
                return count(net), torch.autocast("cpu", torch.bfloat16)(self.infer(net, x))
            return count(net), (self.infer if mode == "infer" else self.train)(net, x)
        shapes, op = operation(name, shapes)
        operands = [self.numbers(*shape) for shape in shapes]
        if mode == "infer":
            return 0, torch.inference_mode()(lambda: op(*operands))
        for t in operands:
            t.requires_grad_()
        ones = torch.ones_like(op(*operands))

        def backward():
            y = op(*operands)
            torch.autograd.grad(y, operands, ones)
            return y

        return 0, backward

    def infer(self, net, x):
        net.eval()
        return torch.inference_mode()(lambda: net(x))

    def train(self, net, x):
        adam = torch.optim.Adam(net.parameters(), lr=1e-4)
        target = self.numbers(x.shape[0], 1, *x.shape[2:])

        def step():
            y = net(x)
            F.mse_loss(y, target).backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            return y

        return step

    def pix2pix(self, shape):
        x, y = self.numbers(*shape), self.numbers(*shape)
        g, d = self.laid(Pix2pixUnet()), self.laid(PatchGan())
        if self.compiled:
            g, d = torch.compile(g), torch.compile(d)
        adam_g, adam_d = (torch.optim.Adam(net.parameters(), lr=1e-4) for net in (g, d))
        bce = F.binary_cross_entropy_with_logits

        def step():
            fake = g(x)
            real, faked = d(x, y), d(x, fake.detach())
            loss = bce(real, torch.ones_like(real)) + bce(faked, torch.zeros_like(faked))
            (0.5 * loss).backward()
            adam_d.step()
            adam_d.zero_grad(set_to_none=True)
            d.requires_grad_(False)
            fooled = d(x, fake)
            (bce(fooled, torch.ones_like(fooled)) + 100 * F.l1_loss(fake, y)).backward()
            d.requires_grad_(True)
            adam_g.step()
            adam_g.zero_grad(set_to_none=True)
            return fake

        return count(g, d), step

    def grog(self, shape):
        net = GrogMlp()
        adam = torch.optim.Adam(net.parameters(), lr=1e-4)
        features = self.numbers(*shape)
        sources = self.numbers(shape[0], 5, 8, dtype=torch.complex64)
        target = self.numbers(shape[0], 8, dtype=torch.complex64)

        def step():
            y = net(features, sources)
            F.l1_loss(y, target).backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
            return torch.view_as_real(y)

        return count(net), step


def operation(name, shapes):
    """Shapes of the operands, and what is done with them."""
    x = shapes[0]
    axes = len(x) - 2
    channels, width = [x[1]], [x[-1]]
    pool = {1: "1d", 2: "2d", 3: "3d"}.get(axes)
    if name in ("conv", "conv_transpose"):
        _, w, stride, padding = shapes
        op = getattr(F, name + pool)
        bias = [w[1] if name == "conv_transpose" else w[0]]
        return [x, w, bias], lambda x, w, b: op(x, w, b, stride[0], padding[0])
    if name == "cat_conv":
        _, w, stride, padding = shapes
        op = getattr(F, "conv" + pool)
        joined = lambda x, y, w, b: op(torch.cat([x, y], 1), w, b, stride[0], padding[0])
        return [x, x, w, [w[0]]], joined
    several = {
        "matmul": (shapes, torch.matmul),
        "linear": (shapes + [shapes[-1][:1]], F.linear),
        "attention": ([x] * 3, F.scaled_dot_product_attention),
        "group_norm_silu": ([x, channels, channels], lambda x, w, b: F.silu(F.group_norm(x, 32, w, b))),
        "cat_group_norm_silu": (
            [x, x, [2 * x[1]], [2 * x[1]]],
            lambda x, y, w, b: F.silu(F.group_norm(torch.cat([x, y], 1), 32, w, b)),
        ),
        "instance_norm_leaky_relu": (
            [x, channels, channels],
            lambda x, w, b: F.leaky_relu(F.instance_norm(x, weight=w, bias=b), 0.1),
        ),
        "layer_norm": ([x, width, width], lambda x, w, b: F.layer_norm(x, width, w, b)),
        "add_row": ([x, width], torch.add),
        "cat": ([x, x], lambda *t: torch.cat(t, 1)),
    }
    single = {
        "relu": F.relu,
        "silu": F.silu,
        "gelu": F.gelu,
        "softmax": lambda x: F.softmax(x, -1),
        "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
        "max_pool": lambda x: getattr(F, "max_pool" + pool)(x, 2),
        "avg_pool": lambda x: getattr(F, "avg_pool" + pool)(x, 2),
        "reflect": lambda x: F.pad(x, [1, 1] * axes, "reflect"),
        "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
        "transpose": lambda x: x.transpose(1, -1).contiguous(),
    }
    return several[name] if name in several else ([x], single[name])


def warm(call):
    begin, best, calls = time.perf_counter(), math.inf, 0
    while calls < 2 or time.perf_counter() - begin < REPETITION:
        start = time.perf_counter()
        call()
        finish()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return math.ceil(REPETITION / best)


def finish():
    """Waits until a GPU has done what it was given."""
    if GPU:
        torch.cuda.synchronize()


def main(layout, mode, name, *shapes):
    if GPU:
        torch.set_default_device("cuda")
        torch.backends.cudnn.benchmark = True
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    shapes = [[int(size) for size in shape.split("x")] for shape in shapes]
    parameters, work = Peer(layout).work(mode, name, shapes)

    def call():
        with torch.autocast("cuda", torch.bfloat16, enabled=GPU):
            return work()

    say = lambda **what: print(json.dumps(what), flush=True)
    output = list(call().shape)
    finish()
    say(parameters=parameters, output=output, version=f"torch {torch.__version__}")
    times = 1
    for line in sys.stdin:
        command = line.strip()
        if command == "warm":
            times = warm(call)
            say(times=times)
        elif command == "run":
            wall, cpu = time.perf_counter(), time.process_time()
            begin, end = [torch.cuda.Event(enable_timing=True) if GPU else None for _ in range(2)]
            if GPU:
                begin.record()
            for _ in range(times):
                call()
            if GPU:
                end.record()
            finish()
            each = lambda seconds: 1e3 * seconds / times
            gpu = begin.elapsed_time(end) / times if GPU else None
            say(wall=each(time.perf_counter() - wall), cpu=each(time.process_time() - cpu), gpu=gpu)
        elif command == "peak":
            say(bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(*sys.argv[1:])
