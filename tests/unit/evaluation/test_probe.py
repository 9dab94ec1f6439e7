"""The linear probe on data whose answer is known."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from ecgscan_ray.evaluation.bootstrap import macro_auroc_statistic
from ecgscan_ray.evaluation.probe import fit_probe


def separable(rng, n, features=12, classes=3):
    x = rng.normal(size=(n, features)) * np.linspace(0.1, 100, features) + 7
    z = (x - 7) / np.linspace(0.1, 100, features)
    return x, z[:, :classes] + 0.3 * rng.normal(size=(n, classes)) > 0.4


def test_reads_separable_classes_and_not_noise():
    rng = np.random.default_rng(0)
    (x, y), (xv, yv), (xt, yt) = (separable(rng, n) for n in (400, 100, 300))
    probe = fit_probe(x, y, xv, yv)
    once = np.ones((1, 300))
    assert macro_auroc_statistic(probe.scores(xt), yt, once)[0] > 0.95
    noise = fit_probe(x, rng.permutation(y), xv, yv)
    assert abs(macro_auroc_statistic(noise.scores(xt), yt, once)[0] - 0.5) < 0.15


def test_equals_sklearn_at_the_same_strength():
    rng = np.random.default_rng(1)
    x, y = separable(rng, 200, features=5, classes=2)
    probe = fit_probe(x, y, x, y, strengths=(0.03,))
    z = (x - x.mean(0)) / x.std(0)
    for c in range(2):
        reference = LogisticRegression(C=1 / (0.03 * len(z)), tol=1e-10, max_iter=10_000).fit(z, y[:, c])
        np.testing.assert_allclose(probe.weight[:, c], reference.coef_[0], atol=1e-4)
        np.testing.assert_allclose(probe.bias[c], reference.intercept_[0], atol=1e-4)


def test_validation_chooses_the_strength():
    """Few rows, many features: a weak ridge fits noise, which validation sees and training does not."""
    rng = np.random.default_rng(2)
    (x, y), (xv, yv) = (separable(rng, n, features=120, classes=1) for n in (60, 200))
    x, xv = ((part - 7) / np.linspace(0.1, 100, 120) for part in (x, xv))
    strengths = (1e-6, 0.3)
    each = {s: fit_probe(x, y, xv, yv, strengths=(s,)).validation_auroc for s in strengths}
    assert fit_probe(x, y, xv, yv, strengths=strengths).strength == max(each, key=each.get)


def test_constant_features_do_no_harm():
    rng = np.random.default_rng(3)
    x, y = separable(rng, 100)
    x = np.concatenate([x, np.full((100, 2), 3.0)], axis=1)
    assert np.isfinite(fit_probe(x, y, x, y).scores(x)).all()
