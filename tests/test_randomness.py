"""Draws are pure functions of (seed, stream, index), and they are what their names say."""

import pytest
import torch

from distgan.randomness import DataOrder, bits, integers, latents, normal, stream_key, uniform

N = torch.arange(20000)


def test_uniform_moments_and_range():
    u = uniform(3, "u", N, 8)
    assert u.dtype == torch.float32
    assert 0 <= float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1
    assert abs(float(u.mean()) - 1 / 2) < 4 / (12 * u.numel()) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 1e-3
    counts = torch.histc(u, 64, 0, 1)
    expected = u.numel() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 110  # chi-squared, 63 degrees of freedom: p < 0.0003


@pytest.mark.parametrize("width", [1, 7, 8])
def test_normal_moments(width):
    z = normal(3, "z", N, width)
    assert z.shape == (len(N), width)
    assert bool(torch.isfinite(z).all())
    n = z.numel()
    assert abs(float(z.mean())) < 4 / n**0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((z**3).mean())) < 4 * (15 / n) ** 0.5
    assert abs(float((z**4).mean()) - 3) < 4 * (96 / n) ** 0.5


def test_columns_rows_streams_and_seeds_are_uncorrelated():
    z = normal(0, "z", N, 6)
    others = [normal(0, "other", N, 6), normal(1, "z", N, 6), normal(0, "z", N + 1, 6)]
    table = torch.cat([z, *others], 1).double()
    correlation = torch.corrcoef(table.T) - torch.eye(table.shape[1])
    assert float(correlation.abs().max()) < 5 / len(N) ** 0.5


def test_integers_cover_their_range_evenly():
    k = integers(5, "k", N, 7)
    assert k.dtype == torch.int64
    counts = torch.bincount(k, minlength=7)
    assert len(counts) == 7
    assert float((counts - len(N) / 7).abs().max()) < 5 * (len(N) / 7) ** 0.5


def test_latents():
    u = latents(0, "z", N, 4, "uniform")
    assert -1 <= float(u.min()) < -0.999
    assert 0.999 < float(u.max()) < 1
    assert torch.equal(latents(0, "z", N, 4), normal(0, "z", N, 4))


def test_a_slice_is_what_the_whole_has_there():
    for draw in (uniform, normal, bits):
        whole = draw(9, "s", N[:1000], 5)
        parts = [draw(9, "s", N[a:b], 5) for a, b in ((0, 1), (1, 400), (400, 1000))]
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(draw(9, "s", N[:1000].flip(0), 5).flip(0), whole)


def test_no_two_draws_of_a_run_are_alike():
    drawn = bits(0, "d/z", torch.arange(1000), 100).flatten()
    assert len(drawn.unique()) == drawn.numel()
    # far along a run, where the counter is large
    far = bits(0, "d/z", torch.arange(10**12, 10**12 + 1000), 100).flatten()
    assert len(torch.cat([drawn, far]).unique()) == 200000


def test_torchs_own_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = normal(0, "z", N[:4], 4), DataOrder(10, 0)(0, 25)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(normal(0, "z", N[:4], 4), first[0])
    assert torch.equal(DataOrder(10, 0)(0, 25), first[1])


def test_golden_values():
    """Changing any of these changes every run there is: a resumed run would go on with other noise and other images."""
    assert stream_key(0, "d/z") == GOLDEN["key"]
    assert bits(7, "golden", torch.tensor([0, 5, 10**9]), 2).tolist() == GOLDEN["bits"]
    torch.testing.assert_close(
        uniform(7, "golden", torch.tensor([0, 5]), 3), torch.tensor(GOLDEN["uniform"]), atol=0, rtol=0
    )
    torch.testing.assert_close(
        normal(7, "golden", torch.tensor([0, 5]), 3), torch.tensor(GOLDEN["normal"]), atol=1e-6, rtol=0
    )
    assert integers(7, "golden", torch.arange(8), 10).tolist() == GOLDEN["integers"]
    assert DataOrder(10, 7)(5, 25).tolist() == GOLDEN["order"]


def test_known_splitmix64():
    """The published sequence: its first outputs from state 0 are the counters 1, 2, 3 of a stream whose key is 0."""
    golden = 0x9E3779B97F4A7C15

    def step(counter):
        x = counter * golden % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    assert step(1) == 0xE220A8397B1DCDAF
    key = stream_key(7, "golden") % 2**64
    inverse = pow(golden, -1, 2**64)  # the key as a number of steps
    expected = [step((index * 2 + column + key * inverse) % 2**64) for index in (0, 5) for column in (1, 2)]
    assert [b % 2**64 for b in bits(7, "golden", torch.tensor([0, 5]), 2).flatten().tolist()] == expected


@pytest.mark.parametrize("size", [1, 2, 10, 257])
def test_every_epoch_shows_each_image_once(size):
    order = DataOrder(size, 3)
    seen = order(0, 4 * size).view(4, size)
    for epoch in seen:
        assert epoch.sort().values.tolist() == list(range(size))
    if size > 9:
        assert not any(torch.equal(seen[i], seen[j]) for i in range(4) for j in range(i))


def test_order_depends_on_the_position_alone():
    whole = DataOrder(10, 3)(0, 95)
    pieces = [DataOrder(10, 3)(a, b) for a, b in ((0, 7), (7, 8), (8, 41), (41, 95))]
    assert torch.equal(torch.cat(pieces), whole)
    back_and_forth = DataOrder(10, 3)
    back_and_forth(80, 95)
    assert torch.equal(back_and_forth(0, 95), whole)
    assert not torch.equal(DataOrder(10, 4)(0, 95), whole)


def test_an_empty_set_has_no_order():
    with pytest.raises(ValueError, match="empty"):
        DataOrder(0, 0)


def test_a_pool_is_shuffled_like_a_set_of_its_own():
    pool = torch.tensor([2, 3, 5, 7])
    assert torch.equal(DataOrder(10, 3, pool)(1, 11), pool[DataOrder(4, 3)(1, 11)])


GOLDEN = {
    "key": 6276464191616876568,
    "bits": [
        [5203856547730318457, 9139318940041606006],
        [5445080102013281102, -1423728046000098349],
        [3572629137026549277, 4047017042623728306],
    ],
    "uniform": [
        [0.282101571559906, 0.4954434633255005, 0.09122037887573242],
        [0.7056277990341187, 0.5729021430015564, 0.4475022554397583],
    ],
    "normal": [
        [-1.4926743507385254, 0.5080087184906006, -0.550363302230835],
        [1.487613320350647, -0.32883328199386597, 0.47682031989097595],
    ],
    "integers": [8, 3, 8, 0, 5, 2, 8, 6],
    "order": [8, 3, 1, 7, 9, 9, 3, 4, 1, 7, 6, 5, 2, 0, 8, 7, 5, 2, 6, 1],
}
