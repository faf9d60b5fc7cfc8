"""The numbers of baseline_losses.rs, by PyTorch in float64:

    python3 crates/shike-model/tests/baseline_losses_reference.py

Formulas are written from the papers; where an author's code differs, the losses' documentation says so.
"""

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)

COUNTS = torch.tensor([120.0, 40.0, 9.0, 2.0])
LOGITS = torch.tensor([[2.0, -1.0, 0.5, 0.25], [-3.0, 4.0, 1.0, 0.0], [0.5, 1.5, -2.0, 3.0]])
LABELS = torch.tensor([2, 1, 3])
SOFT = torch.tensor([[0.1, 0.2, 0.7, 0.0], [0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])


def effective(beta):
    w = (1 - beta) / (1 - beta**COUNTS)
    return w / w.sum() * len(w)


def inverse():
    w = 1 / COUNTS
    return w / w.sum() * len(w)


def cross_entropy(target, weight=None, smoothing=0.0):
    return lambda x: F.cross_entropy(x, target, weight=weight, label_smoothing=smoothing)


def focal(gamma, weight=torch.ones(4)):
    def loss(x):
        p = F.softmax(x, 1)[range(3), LABELS]
        return (-weight[LABELS] * (1 - p) ** gamma * p.log()).mean()

    return loss


def focal_soft(gamma):
    def loss(x):
        p = F.softmax(x, 1)
        return (-SOFT * (1 - p) ** gamma * p.log()).sum(1).mean()

    return loss


def ldam(max_margin, scale, weight=None):
    """x are the classifier's logits, scale * cosine."""

    def loss(x):
        margins = 1 / COUNTS.sqrt().sqrt()
        margins = margins * max_margin / margins.max()
        cosine = x / scale
        cosine = cosine - F.one_hot(LABELS, 4) * margins[LABELS][:, None]
        return F.cross_entropy(scale * cosine, LABELS, weight=weight)

    return loss


def adjusted(tau):
    prior = COUNTS / COUNTS.sum()
    return lambda x: F.cross_entropy(x + tau * prior.log(), LABELS)


CASES = {
    "cross_entropy": cross_entropy(LABELS),
    "smoothed": cross_entropy(LABELS, smoothing=0.1),
    "given": cross_entropy(LABELS, torch.tensor([0.5, 1.0, 2.0, 8.0])),
    "class_balanced": cross_entropy(LABELS, effective(0.99)),
    "class_balanced_smoothed": cross_entropy(LABELS, effective(0.99), 0.2),
    "inverse": cross_entropy(LABELS, inverse()),
    "soft_class_balanced_smoothed": cross_entropy(SOFT, effective(0.99), 0.2),
    "focal_0": focal(0.0),
    "focal_half": focal(0.5),
    "focal_2": focal(2.0),
    "class_balanced_focal": focal(2.0, effective(0.99)),
    "focal_soft": focal_soft(2.0),
    "ldam": ldam(0.5, 5.0),
    "ldam_drw": ldam(0.5, 5.0, effective(0.9999)),
    "logit_adjusted_half": adjusted(0.5),
    "balanced_softmax": adjusted(1.0),
}

for weights in ["effective(0.99)", "effective(0.9999)", "inverse()"]:
    print(weights, eval(weights).tolist())
for name, loss in CASES.items():
    x = LOGITS.clone().requires_grad_()
    value = loss(x)
    value.backward()
    print(f'("{name}", {value.item()!r}, [')
    for row in x.grad.tolist():
        print("    " + ", ".join(repr(g) for g in row) + ",")
    print("]),")
