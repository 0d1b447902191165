"""The oracles against each other, against sklearn and against arithmetic by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests import oracles
from tests.benchmarks import sequential_loop as loop

CLASSES = 3
WEIGHT_DECAY = 0.01
ROW = 3
NORMALISATIONS = ["n", "n-1"]


@pytest.fixture(autouse=True)
def quiet_threads():
    """One torch thread: for models this small more are slower, and much so on a busy machine."""
    with loop.one_thread():
        yield


@pytest.fixture(scope="module")
def problem():
    """50 rows of 4 features with targets, and one test point."""
    random = np.random.default_rng(0)
    features = random.normal(size=(50, 4))
    targets = (features @ random.normal(size=(4, CLASSES)) + random.normal(size=CLASSES)).argmax(1)
    targets[::7] = random.integers(0, CLASSES, size=8)
    return features, targets, random.normal(size=4), 1


@pytest.fixture(scope="module")
def head(problem):
    """A head away from its optimum, with unequal row weights and weight decay."""
    features, targets, *_ = problem
    random = np.random.default_rng(1)
    weights = random.uniform(0, 2 / len(targets), size=len(targets))
    return random.normal(size=CLASSES * 5), (features, targets, weights, WEIGHT_DECAY)


def removal(problem, **options):
    """Arguments of the removal functions for row ROW of the problem."""
    features, targets, test_features, test_target = problem
    return {
        "features": features,
        "targets": targets,
        "weight_decay": WEIGHT_DECAY,
        "classes": CLASSES,
        "row": ROW,
        "test_features": test_features,
        "test_target": test_target,
        **options,
    }


# --- differences ---------------------------------------------------------------------------


def test_finite_differences_of_a_known_function():
    def f(x):
        return math.exp(x[0]) * x[1] + x[1] ** 3

    x = np.array([0.3, -1.2])
    e = math.exp(0.3)
    gradient = [e * -1.2, e + 3 * 1.44]
    hessian = [[e * -1.2, e], [e, 6 * -1.2]]
    np.testing.assert_allclose(oracles.finite_difference_gradient(f, x), gradient, rtol=1e-9)
    np.testing.assert_allclose(oracles.finite_difference_hessian(f, x), hessian, rtol=1e-6)


def test_central_derivative_extrapolates():
    # plain central differences would be wrong by step^2 / 6, here 1.7e-3
    assert oracles.central_derivative(math.exp, 0.1) == pytest.approx(1, abs=2e-6)


# --- the head ------------------------------------------------------------------------------


def test_softmax_loss_by_hand():
    theta = np.array([1.0, 0.0, 0.0, 2.0, 0.5, -0.5])  # W = ((1, 0), (0, 2)), b = (0.5, -0.5)
    losses = oracles.softmax_loss(theta, np.array([[1.0, 1.0]]), np.array([0]), classes=2)
    np.testing.assert_allclose(losses, math.log(1 + math.exp(1.5 - 1.5)), rtol=1e-15)


def test_softmax_loss_survives_large_logits():
    theta = np.array([1e4, -1e4, 0.0, 0.0])
    losses = oracles.softmax_loss(theta, np.ones((2, 1)), np.array([0, 1]), classes=2)
    np.testing.assert_allclose(losses, [0, 2e4])


def test_softmax_loss_refuses_another_class_count(head):
    theta, (features, targets, *_) = head
    with pytest.raises(ValueError, match="3 classes, expected 4"):
        oracles.softmax_loss(theta, features, targets, classes=4)


def test_head_gradient_is_the_slope_of_the_objective(head):
    theta, rest = head
    slope = oracles.finite_difference_gradient(lambda t: oracles.head_objective(t, *rest), theta)
    np.testing.assert_allclose(oracles.head_gradient(theta, *rest), slope, atol=1e-9)


def test_head_hessian_is_the_curvature_of_the_objective(head):
    theta, rest = head
    bend = oracles.finite_difference_hessian(lambda t: oracles.head_objective(t, *rest), theta)
    np.testing.assert_allclose(oracles.head_hessian(theta, *rest), bend, atol=1e-6)


def test_a_shift_of_all_classes_is_the_null_space_of_the_data_hessian(head):
    theta, (features, targets, weights, _) = head
    eigenvalues = np.linalg.eigvalsh(oracles.head_hessian(theta, features, targets, weights, 0))
    null = features.shape[1] + 1
    np.testing.assert_allclose(eigenvalues[:null], 0, atol=1e-14)
    assert eigenvalues[null] > 1e-3


# --- the optimum ---------------------------------------------------------------------------


def test_optimum_has_no_gradient_and_no_common_shift(head):
    _, rest = head
    theta = oracles.head_optimum(*rest, CLASSES)
    slope = oracles.finite_difference_gradient(lambda t: oracles.head_objective(t, *rest), theta)
    W, b = oracles.split_theta(theta, 4)
    assert np.linalg.norm(oracles.head_gradient(theta, *rest)) <= 1e-11
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    np.testing.assert_allclose([*W.sum(0), b.sum()], 0, atol=1e-13)


def test_optimum_is_that_of_sklearn(head):
    _, (features, targets, weights, _) = head
    # sklearn does not penalise its intercept: a column of ones in its place is penalised alike
    ones = np.column_stack([features, np.ones(len(targets))])
    second = LogisticRegression(
        C=1 / WEIGHT_DECAY, fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000
    ).fit(ones, targets, sample_weight=weights)
    W, b = oracles.split_theta(
        oracles.head_optimum(features, targets, weights, WEIGHT_DECAY, CLASSES), 4
    )
    np.testing.assert_allclose(np.column_stack([W, b]), second.coef_, atol=1e-8)


def test_optimum_refuses_no_weight_decay(head):
    _, (features, targets, weights, _) = head
    with pytest.raises(ValueError, match="weight decay above 0, got 0"):
        oracles.head_optimum(features, targets, weights, 0, CLASSES)


# --- removing a row ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed_form(problem):
    """First-order scores of every row by the implicit function theorem, per normalisation."""
    features, targets, test_features, test_target = problem
    n = len(targets)
    rest = (features, targets, np.full(n, 1 / n), WEIGHT_DECAY)
    theta = oracles.head_optimum(*rest, CLASSES)
    test_gradient = oracles.row_gradient(theta, test_features, test_target)
    direction = np.linalg.solve(oracles.head_hessian(theta, *rest), test_gradient)
    rows = np.array(
        [oracles.row_gradient(theta, h, y) for h, y in zip(features, targets, strict=True)]
    )
    return {
        "n": rows @ direction / n,
        "n-1": (rows + WEIGHT_DECAY * theta) @ direction / (n - 1),
    }


@pytest.mark.parametrize("row", [0, ROW, 49])
def test_removal_derivatives_are_the_closed_forms(problem, closed_form, row):
    arguments = removal(problem, row=row)
    fixed = oracles.removal_derivative_n(**arguments)
    renormalised = oracles.removal_derivative_n_minus_1(**arguments)
    assert fixed == pytest.approx(closed_form["n"][row], rel=1e-9)
    assert renormalised == pytest.approx(closed_form["n-1"][row], rel=1e-9)


def test_removal_derivatives_do_not_depend_on_the_step(problem):
    arguments = removal(problem)
    for derivative, step in [
        (oracles.removal_derivative_n, 2e-4),
        (oracles.removal_derivative_n_minus_1, 2e-2),
    ]:
        assert derivative(**arguments, step=step) == pytest.approx(
            derivative(**arguments), rel=1e-8
        )


@pytest.mark.parametrize(
    ("normalisation", "derivative"),
    [("n", oracles.removal_derivative_n), ("n-1", oracles.removal_derivative_n_minus_1)],
)
def test_derivative_is_the_change_up_to_an_error_of_order_one_over_n(
    problem, normalisation, derivative
):
    """With every row repeated, removing one copy is a removal from the same optimum."""
    features, targets, *_ = problem
    errors = []
    for copies in (4, 8):
        repeated = {"features": np.tile(features, (copies, 1)), "targets": np.tile(targets, copies)}
        arguments = removal(problem, **repeated)
        change = oracles.leave_one_out_change(**arguments, normalisation=normalisation)
        errors.append(change / derivative(**arguments) - 1)
    assert abs(errors[0]) < 0.1
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_leave_one_out_change_is_that_of_sklearn_without_the_row(problem, normalisation):
    features, targets, test_features, test_target = problem
    ones = np.column_stack([features, np.ones(50)])

    def test_loss(kept, denominator):
        second = LogisticRegression(
            C=1 / (denominator * WEIGHT_DECAY),
            fit_intercept=False,
            solver="newton-cg",
            tol=1e-12,
            max_iter=1000,
        ).fit(ones[kept], targets[kept])
        return -second.predict_log_proba([[*test_features, 1]])[0, test_target]

    everything = np.arange(50)
    others = np.delete(everything, ROW)
    expected = test_loss(others, {"n": 50, "n-1": 49}[normalisation]) - test_loss(everything, 50)
    change = oracles.leave_one_out_change(**removal(problem), normalisation=normalisation)
    assert change == pytest.approx(expected, rel=1e-6)


def test_leave_one_out_change_refuses_an_unknown_normalisation(problem):
    with pytest.raises(ValueError, match="normalisation is 'mean'"):
        oracles.leave_one_out_change(**removal(problem), normalisation="mean")


# --- networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["selu", "tanh", "relu"])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_numpy_mlp_is_the_torch_network(activation, depth):
    torch.manual_seed(0)
    model = loop.make_mlp(4, 5, depth, CLASSES, activation).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    parameters = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in layers]
    outputs = oracles.numpy_mlp(parameters, inputs.numpy(), activation)
    assert len(layers) == depth + 1
    np.testing.assert_allclose(outputs, model(inputs).detach().numpy(), atol=1e-14)


# --- the sequential loop -------------------------------------------------------------------


@pytest.fixture
def model():
    torch.manual_seed(0)
    return loop.make_mlp(4, 5, 1, CLASSES, "selu").double()


@pytest.fixture(scope="module")
def iris():
    x, y, *_ = loop.load_iris_without(83, torch.float64)
    return x, y


def state(model):
    """All parameters as one vector."""
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()]).numpy()


def test_iris_is_standardised_without_the_held_out_row():
    x, y, x_test, y_test = loop.load_iris_without(83)
    assert [tuple(t.shape) for t in (x, y, x_test, y_test)] == [(149, 4), (149,), (1, 4), (1,)]
    assert (x.dtype, y.dtype, y_test.tolist()) == (torch.float32, torch.int64, [1])
    np.testing.assert_allclose(x.double().mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.double().std(0, correction=0), 1, atol=1e-6)


def test_head_training_is_adam_with_coupled_decay_by_hand(model, iris):
    x, y = iris
    features = model.body(x).detach().numpy()
    theta = np.concatenate([p.detach().numpy().ravel() for p in model.head.parameters()])
    body = state(model.body)
    weights = torch.full((149,), 1 / 148, dtype=torch.float64)
    weights[ROW] = 0
    run = loop.train(
        model,
        x,
        y,
        epochs=20,
        weights=weights,
        weight_decay=WEIGHT_DECAY,
        parameters=model.head.parameters(),
        record=True,
    )
    first, second, losses = np.zeros_like(theta), np.zeros_like(theta), []
    rest = (features, y.numpy(), weights.numpy())
    for epoch in range(1, 21):
        losses.append(oracles.head_objective(theta, *rest, 0))
        gradient = oracles.head_gradient(theta, *rest, WEIGHT_DECAY)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scale = np.sqrt(second / (1 - 0.999**epoch)) + 1e-8
        theta = theta - 1e-3 * first / (1 - 0.9**epoch) / scale
    np.testing.assert_allclose(run.losses, losses, rtol=1e-13)
    np.testing.assert_allclose(state(model.head), theta, rtol=1e-12)
    np.testing.assert_array_equal(state(model.body), body)
    assert all(p.requires_grad for p in model.parameters())


def test_zero_weight_is_the_same_as_leaving_the_row_out(model, iris):
    x, y = iris
    other = copy.deepcopy(model)
    weights = torch.full((149,), 1 / 148, dtype=torch.float64)
    weights[ROW] = 0
    kept = torch.arange(149) != ROW
    loop.train(model, x, y, epochs=50, weights=weights)
    loop.train(other, x[kept], y[kept], epochs=50)
    np.testing.assert_allclose(state(model), state(other), rtol=1e-10)


def test_forced_rates_reproduce_a_run(model, iris):
    other, quicker = copy.deepcopy(model), {"epochs": 60, "learning_rate": 0.5, "patience": 2}
    run = loop.train(model, *iris, **quicker, record=True)
    assert run.learning_rates[0] == 0.5
    assert run.learning_rates[-1] < 0.5
    loop.train(other, *iris, epochs=60, learning_rates=run.learning_rates)
    np.testing.assert_array_equal(state(model), state(other))
    with pytest.raises(ValueError, match="60 learning rates for 59 epochs"):
        loop.train(other, *iris, epochs=59, learning_rates=run.learning_rates)


def test_plateau_schedule_by_hand(model, iris):
    """Better is below best * (1 - 1e-4); after more than `patience` bad epochs the rate falls."""
    run = loop.train(model, *iris, epochs=60, learning_rate=0.5, patience=2, record=True)
    rate, best, bad, rates = 0.5, math.inf, 0, []
    for loss in run.losses:
        rates.append(rate)
        if loss < best * (1 - 1e-4):
            best, bad = loss, 0
        else:
            bad += 1
        if bad > 2:
            bad = 0
            if rate - rate * 0.1 > 1e-8:
                rate *= 0.1
    assert len(set(rates)) > 2
    np.testing.assert_allclose(run.learning_rates, rates, rtol=1e-15)


def test_averaging_takes_the_weights_after_three_quarters(model, iris):
    """Of 40 epochs 31 to 39 enter; the rate goes to 1e-3 by cosine over 4 epochs from 31 on."""
    start, options = copy.deepcopy(model), {"epochs": 40, "learning_rate": 0.5, "patience": 2}
    run = loop.train(model, *iris, **options, averaging=True, record=True)
    rate = run.learning_rates[31]
    cosine = [(1 - math.cos(math.pi * t / 4)) / 2 for t in range(5)]
    expected = [1e-3 * a + rate * (1 - a) for a in cosine] + [1e-3] * 4
    np.testing.assert_allclose(run.learning_rates[31:], expected, rtol=1e-12)
    visited = []
    for epochs in range(32, 41):
        replay = copy.deepcopy(start)
        loop.train(replay, *iris, epochs=epochs, learning_rates=run.learning_rates[:epochs])
        visited.append(state(replay))
    np.testing.assert_array_equal(state(model), visited[-1])
    np.testing.assert_allclose(state(run.averaged), np.mean(visited, axis=0), rtol=1e-12)
    with pytest.raises(ValueError, match="at least 5 epochs, got 4"):
        loop.train(model, *iris, epochs=4, averaging=True)


def test_head_fine_tuning_reaches_the_exact_leave_one_out_optimum(model, iris):
    x, y = iris
    features = model.body(x).detach().numpy()
    weights = torch.full((149,), 1 / 148, dtype=torch.float64)
    weights[ROW] = 0
    rest = (features, y.numpy(), weights.numpy(), 0.1)
    loop.train(
        model,
        x,
        y,
        epochs=2000,
        weights=weights,
        weight_decay=0.1,
        parameters=model.head.parameters(),
        learning_rates=[1e-2 * 0.995 ** max(0, epoch - 500) for epoch in range(2000)],
    )
    optimum = oracles.head_optimum(*rest, CLASSES)
    np.testing.assert_allclose(state(model.head), optimum, atol=1e-4)


def test_one_thread_restores_the_count():
    torch.set_num_threads(2)  # `quiet_threads` restores the count before this test
    with loop.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_one_seed_removes_the_rows_of_largest_loss_from_the_average():
    recipe = {"weight_decay": 0.005, "averaging": True}
    short = {"epochs": 40, "retrain_epochs": 20, "removals": 3, "dtype": torch.float64}
    result = loop.one_seed(0, depth=1, width=5, **recipe, **short)

    x, y, x_test, y_test = loop.load_iris_without(83, torch.float64)
    torch.manual_seed(0)
    model = loop.make_mlp(4, 5, 1, CLASSES, "selu").double()
    base = loop.train(model, x, y, epochs=40, **recipe).averaged
    body, top = base.body[0], base.head

    def losses(inputs, targets, head):
        layer = (body.weight.detach().numpy(), body.bias.detach().numpy())
        features = oracles.ACTIVATIONS["selu"](oracles.numpy_mlp([layer], inputs.numpy(), "selu"))
        return oracles.softmax_loss(state(head), features, targets.numpy(), CLASSES)

    largest = np.argsort(-losses(x, y, top), kind="stable")[:3]
    tuned = copy.deepcopy(base)
    weights = torch.full((149,), 1 / 148, dtype=torch.float64)
    weights[largest[0]] = 0
    loop.train(
        tuned,
        x,
        y,
        epochs=20,
        weights=weights,
        weight_decay=0.005,
        parameters=tuned.head.parameters(),
    )
    before = losses(x_test, y_test, top)[0]
    assert result.rows == tuple(largest)
    assert result.loss_before == pytest.approx(before, rel=1e-12)
    assert result.changes[0] == pytest.approx(
        losses(x_test, y_test, tuned.head)[0] - before, rel=1e-8
    )
