"""The ensemble of the study `best`: its accuracy from the margins in the result file, against the mean of the logits."""

import numpy as np

from experiments.best import encode_margins, ensemble_accuracy

RNG = np.random.default_rng(0)


def test_ensemble_accuracy() -> None:
    labels = RNG.integers(0, 2, 1000)
    truth = np.where(labels == 1, 1.0, -1.0)
    logits = [truth + 2 * RNG.normal(size=1000) for _ in range(5)]
    texts = [encode_margins(one, labels) for one in logits]
    alone = [float(((one > 0) == (labels == 1)).mean()) for one in logits]
    assert [ensemble_accuracy([text]) for text in texts] == alone
    want = float(((np.mean(logits, axis=0) > 0) == (labels == 1)).mean())
    assert abs(ensemble_accuracy(texts) - want) <= 1e-3  # float16 may turn a review whose mean is close to 0
    assert want > max(alone) + 0.1
