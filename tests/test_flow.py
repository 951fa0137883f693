import pytest, torch
from hypothesis import given, settings, strategies as st
from pokeidm.core import PokeidmError
from pokeidm.flow import (interpolate, velocity, to_velocity, to_data, sample, sample_times, ramp_weight, TARGETS, METHODS)


def test_time_convention():
    "t=0 is noise, t=1 is data, the velocity points from noise to data, and samplers walk that way."
    data, noise = torch.full((2, 3), 5.), torch.full((2, 3), -1.)
    assert torch.equal(interpolate(data, noise, 0), noise) and torch.equal(interpolate(data, noise, 1), data)
    assert torch.equal(noise + velocity(data, noise), data)
    assert torch.equal(ramp_weight(torch.tensor([0., 1.])), torch.tensor([.1, 1.]))
    seen = []
    out = sample(lambda x, t: seen.append(t) or data, noise, 4)
    assert seen == [0, .25, .5, .75] and torch.allclose(out, data)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.floats(0, .99), lead=st.sampled_from([(), (3,), (3, 2)]))
def test_x_and_v_are_the_same_thing(seed, t, lead):
    g = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(3, 2, 4, generator=g), torch.randn(3, 2, 4, generator=g)
    t = torch.full(lead, t)
    x_t = interpolate(data, noise, t)
    assert torch.allclose(to_velocity(data, x_t, t), velocity(data, noise), atol=1e-2)
    assert torch.allclose(to_data(velocity(data, noise), x_t, t), data, atol=1e-4)


def test_each_frame_has_its_own_time():
    data, noise, t = torch.ones(2, 3, 4), torch.zeros(2, 3, 4), torch.rand(2, 3)
    assert torch.allclose(interpolate(data, noise, t), t[..., None].expand(2, 3, 4))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("steps", [1, 3, [0, .2, .9, 1]])
def test_a_perfect_model_of_one_point_is_reached_exactly(method, target, steps):
    goal, noise = torch.tensor([3., -2.]), torch.randn(16, 2)
    predict = {"x": lambda x, t: goal.expand_as(x), "v": lambda x, t: (goal - x)/(1 - t)}[target]
    assert torch.allclose(sample(predict, noise, steps, method, target), goal.expand_as(noise), atol=1e-4)


def test_times():
    g = torch.Generator().manual_seed(0)
    for how, mean in (("uniform", .5), ("logit_normal", .5)):
        t = sample_times((20000,), how, generator=g)
        assert 0 <= t.min() and t.max() <= 1 and abs(t.mean() - mean) < .02
    assert sample_times((20000,), "logit_normal", mean=-1, generator=g).mean() < .35


@pytest.mark.parametrize("bad", [dict(steps=0), dict(steps=[0, .5]), dict(steps=[.1, 1]), dict(steps=[0, .6, .5, 1]),
                                 dict(method="magic"), dict(target="y")])
def test_bad_settings_are_one_line(bad):
    with pytest.raises(PokeidmError) as e: sample(lambda x, t: x, torch.zeros(1, 2), **bad)
    assert "\n" not in str(e.value)
    with pytest.raises(PokeidmError): sample_times((2,), "magic")

def test_a_shortcut_leads_where_two_halves_do():
    from pokeidm.flow import interpolate, sample, sample_shortcuts, shortcut_target, to_velocity
    g = torch.Generator().manual_seed(0)
    x, (t, step) = torch.randn(50, 3, generator=g), sample_shortcuts((50,), generator=g)
    lengths = []
    def predict(x, t, told): lengths.append(told); return torch.sin(3*x) + t[:, None]*x
    got = shortcut_target(predict, x, t, step)
    half = step/2
    middle = x + half[:, None]*to_velocity(predict(x, t, half), x, t, eps=1e-6)
    end = middle + half[:, None]*to_velocity(predict(middle, t + half, half), middle, t + half, eps=1e-6)
    assert torch.allclose(x + step[:, None]*to_velocity(got, x, t, eps=1e-6), end, atol=1e-4)
    assert torch.equal(lengths[0], torch.where(half > 2.**-6, half, 0*half)) and (lengths[0] == 0).any()
