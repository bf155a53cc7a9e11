"""Readers of foreign bytes refuse in their own words whatever they are given.

The corpus, and mutations of it that are the same each time; `search.py` looks for new ones.
"""

import random

import pytest
from readers import READERS, corpus, room

FEW, MANY = 40, 3000
SLOW = ("models", "params", "overrides")  # a tenth of a second each time
PIECES = (b"", b"\0", b"\xff", b"-1", b"1e999", b"{}", b"[" * 2000, b"null", b"9" * 400, b"\\ud800")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A piece of it replaced by noise, by something odd, or by another piece of it."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice((0, 1, 1, 2, 4, 16, 256)))
        other = chance.randrange(len(content) + 1)
        middle = chance.choice(
            (chance.randbytes(end - start), chance.choice(PIECES), content[other : other + 8])
        )
        content = content[:start] + middle + content[end:]
    return content if chance.random() < 0.9 else content[: chance.randrange(len(content) + 1)]


@pytest.mark.parametrize("name", READERS)
def test_corpus(tmp_path, name):
    folder = room(name, tmp_path)
    for content in corpus(name):
        READERS[name].attempt(folder, content)


@pytest.mark.parametrize(
    ("name", "number"),
    [pytest.param(n, FEW, id=f"{n}-few") for n in READERS if n not in SLOW]
    + [
        pytest.param(n, MANY // 10 if n in SLOW else MANY, id=f"{n}-many", marks=pytest.mark.slow)
        for n in READERS
    ],
)
def test_mutations(tmp_path, name, number):
    folder, chance, known = room(name, tmp_path), random.Random(name), list(corpus(name))
    for i in range(number):
        READERS[name].attempt(folder, mutated(known[i % len(known)], chance))
