"""Losses by hand where padding is left out: `zeroed` or `of_kept` is all that they see."""

import numpy as np


# Losses whose value is worked out here from what `zeroed` or `of_kept` leaves.
def zeroed(features, kept):
    return (features * kept[..., None]).reshape(len(features), -1)


def of_kept(features, kept):
    return (features * kept[..., None]).sum(1) / kept.sum(1, keepdims=True)


def hint(student, teacher, kept):
    return ((student - teacher) ** 2).mean(-1)[kept].mean()


def vkd(student, teacher, kept, projection=None):
    s, t = of_kept(student, kept) @ projection, of_kept(teacher, kept)
    t = (t - t.mean(0)) / np.sqrt(t.var(0) + 1e-5)
    d = np.abs(s - t)
    return np.where(d < 1, 0.5 * d**2, d - 0.5).mean()


def at(student, teacher, kept):
    maps = [(side**2).mean(-1) * kept for side in (student, teacher)]
    a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
    return ((a - b) ** 2)[kept].mean()


def sp(student, teacher, kept):
    grams = [zeroed(side, kept) @ zeroed(side, kept).T for side in (student, teacher)]
    a, b = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in grams)
    return ((a - b) ** 2).mean()


def cka(student, teacher, kept):
    x, y = (zeroed(side, kept) - zeroed(side, kept).mean(0) for side in (student, teacher))
    norm = np.linalg.norm
    return 1.0 - norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y))


def rkd_distance(student, teacher, kept):
    both = []
    for side in (student, teacher):
        x = zeroed(side, kept)
        lengths = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
        both.append(lengths / lengths[lengths > 1e-7].mean())
    d = np.abs(both[0] - both[1])
    return np.where(d < 1, 0.5 * d**2, d - 0.5).mean()
