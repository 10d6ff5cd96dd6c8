"""Rational-quadratic splines against an implementation of their own, knot by knot and value by value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from boltzflow.flows import splines

LOW, HIGH, BINS = -1.5, 4.0, 8


def oracle(spline, x: float) -> tuple[float, float]:
    """Value and derivative at one point: the quotient of two quadratics through the knots (Gregory and Delbourgo, 1982)."""
    xs, ys, ds = (np.asarray(a, float) for a in spline)
    if x <= xs[0]:
        return ys[0] + ds[0] * (x - xs[0]), ds[0]
    if x >= xs[-1]:
        return ys[-1] + ds[-1] * (x - xs[-1]), ds[-1]
    k = np.searchsorted(xs, x, side="right") - 1

    def value(x: float) -> float:
        h, s = xs[k + 1] - xs[k], (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
        t = (x - xs[k]) / h
        p = s * ys[k + 1] * t**2 + (ys[k] * ds[k + 1] + ys[k + 1] * ds[k]) * t * (1 - t) + s * ys[k] * (1 - t) ** 2
        return p / (s * t**2 + (ds[k + 1] + ds[k]) * t * (1 - t) + s * (1 - t) ** 2)

    step = 1e-6
    return value(x), (value(x + step) - value(x - step)) / (2 * step)


@pytest.fixture
def random_spline():
    with jax.enable_x64(True):
        yield splines.on_interval(jnp.asarray(np.random.default_rng(0).normal(size=3 * BINS + 1) * 1.5), LOW, HIGH)


def test_values_and_derivatives_are_those_of_the_formula(random_spline):
    for x in np.random.default_rng(1).uniform(LOW - 2, HIGH + 2, 60):
        y, log_slope = random_spline(jnp.asarray(x))
        value, slope = oracle(random_spline, x)
        assert float(y) == pytest.approx(value, abs=1e-10)
        assert float(jnp.exp(log_slope)) == pytest.approx(slope, rel=1e-5)


def test_knots_are_where_they_should_be(random_spline):
    assert random_spline.x[0] == random_spline.y[0] == LOW
    assert random_spline.x[-1] == random_spline.y[-1] == HIGH
    assert np.all(np.diff(random_spline.x) > 0)
    assert np.all(np.diff(random_spline.y) > 0)
    assert np.all(np.asarray(random_spline.slope) > 0)
    y, log_slope = jax.vmap(lambda x: random_spline(x))(random_spline.x)
    np.testing.assert_allclose(y, random_spline.y, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_slope), random_spline.slope, rtol=1e-9)


def test_derivative_is_that_of_automatic_differentiation_and_the_inverse_undoes(random_spline):
    x = jnp.linspace(LOW - 3, HIGH + 3, 301)
    y, log_slope = jax.vmap(lambda x: random_spline(x))(x)
    slope = jax.vmap(jax.grad(lambda x: random_spline(x)[0]))(x)
    np.testing.assert_allclose(log_slope, np.log(slope), atol=1e-10)
    back, inverse_slope = jax.vmap(random_spline.inverse)(y)
    np.testing.assert_allclose(back, x, atol=1e-11)
    np.testing.assert_allclose(inverse_slope, -log_slope, atol=1e-9)
    # The inverse is found by bisection just as well.
    for target in (-1.0, 0.3, 3.7):
        root = scipy.optimize.brentq(lambda x, target=target: oracle(random_spline, x)[0] - target, LOW - 3, HIGH + 3, xtol=1e-13)
        assert float(random_spline.inverse(jnp.asarray(target))[0]) == pytest.approx(root, abs=1e-10)


@pytest.mark.parametrize("extreme", [-60.0, 60.0])
def test_extreme_parameters_stay_invertible_with_finite_gradients(extreme):
    with jax.enable_x64(True):
        raw = jnp.asarray(np.where(np.arange(3 * BINS + 1) % 3 == 0, extreme, 0.0))
        x = jnp.linspace(LOW, HIGH, 101)
        y, log_slope = jax.vmap(lambda x: splines.on_interval(raw, LOW, HIGH)(x))(x)
        back, _ = jax.vmap(lambda y: splines.on_interval(raw, LOW, HIGH).inverse(y))(y)
        gradient = jax.grad(lambda raw: jnp.sum(jax.vmap(lambda x: splines.on_interval(raw, LOW, HIGH)(x)[1])(x)))(raw)
    assert np.all(np.diff(y) > 0)
    assert np.all(np.isfinite(log_slope))
    np.testing.assert_allclose(back, x, atol=1e-7)
    assert np.all(np.isfinite(gradient))


def test_zeros_give_the_identity():
    raw = jnp.zeros(splines.parameters(BINS))
    x = jnp.linspace(LOW - 2, HIGH + 2, 50)
    y, log_slope = jax.vmap(lambda x: splines.on_interval(raw, LOW, HIGH)(x))(x)
    np.testing.assert_allclose(y, x, atol=2e-6)
    np.testing.assert_allclose(log_slope, 0.0, atol=2e-6)
    angle = jnp.linspace(-3.1, 3.1, 50)
    turned, log_slope = jax.vmap(lambda a: splines.on_circle(raw)(a))(angle)
    np.testing.assert_allclose(turned, angle, atol=2e-6)
    np.testing.assert_allclose(log_slope, 0.0, atol=2e-6)


def test_circle():
    with jax.enable_x64(True):
        spline = splines.on_circle(jnp.asarray(np.random.default_rng(3).normal(size=3 * BINS + 1)))
        angle = jnp.linspace(-np.pi, np.pi, 201)[:-1]
        image, log_slope = jax.vmap(lambda a: spline(a))(angle)
        # One turn of the angle is one turn of the image, which -pi does not stay fixed under.
        steps = np.mod(np.diff(np.append(image, image[0])), 2 * np.pi)
        assert np.all(steps > 0)
        assert steps.sum() == pytest.approx(2 * np.pi, abs=1e-10)
        assert abs(float(image[0]) + np.pi) > 0.01
        back, inverse_slope = jax.vmap(spline.inverse)(image)
        np.testing.assert_allclose(np.cos(back - angle), 1.0, atol=1e-12)
        np.testing.assert_allclose(inverse_slope, -log_slope, atol=1e-9)
        # Value and slope are the same on both sides of the cut.
        cut = float(splines.wrapped(-spline.shift + np.pi))
        (left, left_slope), (right, right_slope) = spline(jnp.asarray(cut - 1e-9)), spline(jnp.asarray(cut + 1e-9))
        assert float(jnp.cos(left - right)) == pytest.approx(1.0, abs=1e-12)
        assert float(left_slope) == pytest.approx(float(right_slope), abs=1e-6)


def test_wrapped_angles():
    angles = jnp.asarray([0.0, 3.0, 4.0, -4.0, 10.0])
    np.testing.assert_allclose(splines.wrapped(angles), [0.0, 3.0, 4.0 - 2 * np.pi, -4.0 + 2 * np.pi, 10.0 - 4 * np.pi], atol=1e-6)
    assert float(splines.wrapped(jnp.asarray(np.float32(np.pi)))) < np.pi + 1e-6
