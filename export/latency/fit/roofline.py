"""The roofline: time of a model on a device, as the sum over its operations of what each class of them costs there.

A product takes the longer of computing and of reading its weights, smoothed: ((flops / rate)^p + (bytes / bandwidth)^p)^(1/p);
products with few channels run at a part of the rate. Everything else takes its bytes at a bandwidth of its own. Each call
costs a little, and so does one inference. Left out: what stands in the way of the NPU (`export.latency.lints`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from export.latency.graph.features import MOVERS, PRODUCTS, Pack

NAMES = (*PRODUCTS, *MOVERS, "weights", "traffic", "few", "call", "view", "start", "p")
AT = {name: index for index, name in enumerate(NAMES)}
FLOPS, BYTES = (
    1e12,
    1e9,
)  # units of the parameters: TFLOP/s and GB/s; "call" and "view" in us, "start" in ms, "few" in channels
SLOPPINESS = 0.2  # spread of log-latencies between laboratories and exporters, for the fit
TAILS = 4.0  # degrees of freedom of the Student-t residuals

# Prior medians, one set per kind of NPU, of which a fit learns each device's own values.
PRIORS: dict[str, dict[str, float]] = {
    "ANE": {
        "conv": 10, "conv1": 13, "dw": 1.4, "grp": 4, "lin": 6, "bmm": 4, "elt": 250, "residual": 500, "act": 300, "heavy": 300,
        "norm": 33, "bn": 300, "softmax": 46, "pool": 250, "reduce": 150, "cat": 300, "permute": 50, "copy": 50, "gather": 50,
        "io": 10, "weights": 35, "traffic": 300, "few": 8, "call": 0.7, "view": 0.5, "start": 0.35, "p": 1.6,
    },
    "HTP": {
        "conv": 25, "conv1": 22, "dw": 0.5, "grp": 6.5, "lin": 18, "bmm": 4, "elt": 100, "residual": 400, "act": 200, "heavy": 150,
        "norm": 60, "bn": 400, "softmax": 60, "pool": 300, "reduce": 200, "cat": 600, "permute": 60, "copy": 60, "gather": 60,
        "io": 8, "weights": 60, "traffic": 300, "few": 16, "call": 2.0, "view": 0.3, "start": 0.2, "p": 2.0,
    },
    "CPU": {
        "conv": 0.12, "conv1": 0.12, "dw": 0.03, "grp": 0.06, "lin": 0.12, "bmm": 0.08, "elt": 10, "residual": 10, "act": 10,
        "heavy": 6, "norm": 6, "bn": 10, "softmax": 3, "pool": 5, "reduce": 10, "cat": 10, "permute": 6, "copy": 6, "gather": 6,
        "io": 10, "weights": 15, "traffic": 30, "few": 4, "call": 1.0, "view": 0.1, "start": 0.03, "p": 2.0,
    },
}  # fmt: skip
# How sure the priors are: standard deviations of logarithms.
WIDTHS = dict.fromkeys(NAMES, 0.35) | {"weights": 0.18, "p": 0.14, "start": 0.21, "call": 0.42, "view": 0.56}
# Bytes of a weight and of an activation.
OPERAND_BYTES: dict[str, tuple[float, float]] = {"fp32": (4, 4), "fp16": (2, 2), "w8a16": (1, 2), "w8a8": (1, 1)}
OPERAND_BYTES |= {f"pal{bits}": (bits / 8, 2) for bits in (1, 2, 3, 4, 6, 8)}  # weights by table, computed in fp16
# int8 products run about twice as fast as fp16 ones on every NPU here (latency.md 2.1); a fit learns the rest.
INT8_RATE = 2.0


def prior(unit: str, precision: str) -> Tensor:
    """Logarithms of the prior medians, in the order of NAMES."""
    values = dict(PRIORS[unit])
    if precision == "w8a8":
        values |= {kind: values[kind] * INT8_RATE for kind in PRODUCTS}
    return torch.tensor([values[name] for name in NAMES], dtype=torch.float64).log()


def widths(scale: float = 1.0) -> Tensor:
    """Standard deviations of the priors, times `scale`, in the order of NAMES."""
    return torch.tensor([WIDTHS[name] * scale for name in NAMES], dtype=torch.float64)


def faster(theta: Tensor, factor: float) -> Tensor:
    """Parameters of a device on which everything takes 1 / `factor` of the time."""
    change = torch.zeros_like(theta)
    rates = [AT[name] for name in (*PRODUCTS, *MOVERS, "weights", "traffic")]
    change[rates] = 1.0
    change[[AT["call"], AT["view"], AT["start"]]] = -1.0
    return theta + change * torch.tensor(factor, dtype=torch.float64).log()


def shares(theta: Tensor, models: Pack, precision: str) -> Tensor:
    """Milliseconds of each model in each class: [n, PRODUCTS + MOVERS + (call, view, start)]."""
    of_weight, of_activation = OPERAND_BYTES[precision]
    value = theta.exp()
    slow = (1 + value[AT["few"]] / models.outer) * (1 + value[AT["few"]] / models.inner)
    slow = torch.where((models.kind == PRODUCTS.index("dw")) | (models.kind == PRODUCTS.index("bmm")), 1.0, slow)
    computing = models.flops * slow / (value[: len(PRODUCTS)][models.kind] * FLOPS) + 1e-12
    reading = models.weights * of_weight / (value[AT["weights"]] * BYTES) + 1e-12
    p = value[AT["p"]]
    product = (computing**p + reading**p) ** (1 / p)
    product = product + models.traffic * of_activation / (value[AT["traffic"]] * BYTES)
    places = models.model * len(PRODUCTS) + models.kind
    compute = torch.zeros(models.n * len(PRODUCTS), dtype=torch.float64).index_add(0, places, product * models.times)
    bandwidth = value[len(PRODUCTS) : len(PRODUCTS) + len(MOVERS)] * BYTES
    moving = models.moved * of_activation / bandwidth
    count = torch.zeros(models.n, dtype=torch.float64).index_add(0, models.model, models.times)
    calls = (models.calls + count) * value[AT["call"]] * 1e-6
    rest = [
        calls,
        models.views * value[AT["view"]] * 1e-6,
        torch.ones(models.n, dtype=torch.float64) * value[AT["start"]] * 1e-3,
    ]
    return torch.cat([compute.reshape(models.n, -1), moving, torch.stack(rest, 1)], 1) * 1e3


def latency(theta: Tensor, models: Pack, precision: str) -> Tensor:
    """Milliseconds of each model, [n]."""
    return shares(theta, models, precision).sum(1)


def fit(
    models: Pack,
    rows: Tensor,
    groups: Tensor,
    log_ms: Tensor,
    precision: str,
    centre: Tensor,
    width: Tensor,
    *,
    spread: float = 0.0,
    iterations: int = 60,
) -> tuple[Tensor, Tensor]:
    """Parameters that explain measured latencies, and one factor per group of rows: the most probable, with priors.

    Args:
        models: the models that rows are of.
        rows: int64 [r], which model each row is of.
        groups: int64 [r], which device and runtime it is of.
        log_ms: [r].
        centre, width: of the parameters' log-normal priors.
        spread: standard deviation of the groups' log factors around 0; 0 = there are none.

    Returns:
        Parameters as logarithms, and the groups' log factors.
    """
    theta = centre.clone().requires_grad_(True)
    factors = torch.zeros(int(groups.max()) + 1, dtype=torch.float64, requires_grad=spread > 0)
    wanted = [theta, factors] if spread > 0 else [theta]
    optimiser = torch.optim.LBFGS(wanted, max_iter=iterations, history_size=20, line_search_fn="strong_wolfe")
    # Each model counts once, however many devices and runtimes it was measured on.
    share = 1 / torch.bincount(rows, minlength=models.n).double()[rows].clamp(min=1)

    def closure() -> Tensor:
        optimiser.zero_grad()
        error = (latency(theta, models, precision).log()[rows] + factors[groups] - log_ms) / SLOPPINESS
        loss = ((TAILS + 1) / 2 * torch.log1p(error**2 / TAILS) * share).sum()
        loss = loss + (((theta - centre) / width) ** 2).sum() / 2
        if spread > 0:
            loss = loss + ((factors / spread) ** 2).sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return theta.detach(), factors.detach()


def as_values(theta: Tensor) -> dict[str, float]:
    """Parameters by name, in the units of FLOPS, BYTES, us and ms, for a file."""
    return {name: float(f"{float(value):.5g}") for name, value in zip(NAMES, theta.exp(), strict=True)}


def of_values(values: Mapping[str, float]) -> Tensor:
    """The parameters that `as_values` wrote."""
    return torch.tensor([values[name] for name in NAMES], dtype=torch.float64).log()
