"""Reconstruction from spirals by FINUFFT and PyTorch: the works of `mri.rs`.

FINUFFT is asked for the same error, in single precision, and used as fast as it can be: planned once, all coils in
one call, with all threads or with one, whichever is faster.
"""

import os
import time

import numpy as np
import torch
from torch.nn import functional as F

from networks import GrogMlp

TOLERANCE = 1e-5
READOUT, FIELD, SEGMENTS, TURNS = 11.2e-3, 130.0, 8, 20.0


def spiral(shots, length, matrix):
    at = np.sqrt(np.arange(length) / length)
    angle = 2 * np.pi * (TURNS * at + np.arange(shots)[:, None] / shots)
    return [0.49 * n * at * f(angle) for n, f in zip(matrix, (np.cos, np.sin))]


def noise(*shape):
    numbers = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    return numbers[0] + 1j * numbers[1]


class Transforms:
    """Forward and adjoint of several images."""

    def __init__(self, points, matrix, many, threads):
        import finufft

        points = [(2 * np.pi * k.ravel() / n).astype(np.float32) for k, n in zip(points, matrix)]
        plan = lambda kind, sign: finufft.Plan(
            kind, tuple(matrix), many, TOLERANCE, sign, dtype="complex64", nthreads=threads
        )
        self.plans = plan(2, -1), plan(1, 1)
        for p in self.plans:
            p.setpts(*points)
        self.scale = np.float32(1 / np.sqrt(np.prod(matrix)))

    def forward(self, images):
        return self.plans[0].execute(images) * self.scale

    def adjoint(self, samples):
        return self.plans[1].execute(samples) * self.scale


def fastest(make):
    """What `make` makes of a number of threads, with the better one."""
    best = None
    for threads in {int(os.environ["OMP_NUM_THREADS"]), 1}:
        call = make(threads)
        call()
        start = time.perf_counter()
        for _ in range(3):
            call()
        took = time.perf_counter() - start
        if best is None or took < best[0]:
            best = took, call
    return best[1]


def size(result):
    """Something to say the size of."""
    return torch.tensor([result.size])


def work(mode, name, shapes):
    (coils, shots, length), matrix = shapes
    points = spiral(shots, length, matrix)
    if name == "mri_kernels":
        return training(coils, points, matrix, 1024, 1, 0)
    if name == "mri_preset_kernels":
        return training(coils, points, matrix, 256, 8, 128)
    images, maps = noise(coils, *matrix), noise(coils, *matrix)
    image = noise(*matrix)
    weights = np.ones(shots * length, np.float32)

    def transforms(threads):
        t = Transforms(points, matrix, coils, threads)
        return lambda: size(t.adjoint(t.forward(images)))

    def iteration(threads):
        t = Transforms(points, matrix, coils, threads)
        normal = lambda x: (maps.conj() * t.adjoint(weights * t.forward(maps * x))).sum(0)
        return lambda: size(normal(image))

    def field(threads):
        t = Transforms(points, matrix, coils, threads)
        b, h = noise(SEGMENTS, *matrix), np.tile(noise(SEGMENTS, 1, length), (1, shots, 1))
        h = h.reshape(SEGMENTS, -1)

        def normal(x):
            y = sum(h[l] * t.forward(maps * (b[l] * x)) for l in range(SEGMENTS))
            back = lambda l: (maps.conj() * t.adjoint(h[l].conj() * weights * y)).sum(0)
            return sum(b[l].conj() * back(l) for l in range(SEGMENTS))

        return lambda: size(normal(image))

    makes = {
        "mri_nufft": transforms,
        "mri_nufft_iteration": iteration,
        "mri_toeplitz_iteration": iteration,
        "mri_grid_iteration": iteration,
        "mri_nufft_field": field,
        "mri_grid_field": field,
    }
    return 0, fastest(makes[name])


def training(coils, points, matrix, geometries, each, projections):
    """Drawing the pairs of a step, `each` of every geometry, and the step: geometries of five sources along the
    readout, with the waves of random projections."""
    shots, length = points[0].shape
    k = torch.stack([torch.from_numpy(p) for p in points], -1).float()
    places = (torch.arange(length)[:, None] + torch.arange(-2, 3)).clamp(0, length - 1)
    offsets = (k[:, places] - k.round()[:, :, None]).reshape(-1, 5, 2)
    maps = torch.from_numpy(noise(coils, *matrix)).reshape(coils, -1)
    grid = torch.meshgrid(*[torch.arange(n) - n // 2 for n in matrix], indexing="ij")
    r = torch.stack([g.flatten() / n for g, n in zip(grid, matrix)], -1).float()
    net = GrogMlp(projections)
    adam = torch.optim.Adam(net.parameters(), lr=1e-4)

    def step():
        i = torch.randint(len(offsets), (geometries,))
        v = torch.randint(len(r), (geometries * each,))
        target = maps[:, v].T
        d = offsets[i]
        turns = (d.repeat_interleave(each, 0) * r[v][:, None]).sum(-1)
        sources = target[:, None] * torch.exp(-2j * torch.pi * turns)[:, :, None]
        y = net(d.flatten(1), sources)
        F.l1_loss(y, target).backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        return torch.view_as_real(y)

    numbers = lambda p: p.numel() * (2 if p.is_complex() else 1)
    return sum(map(numbers, net.parameters())), step
