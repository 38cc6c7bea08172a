"""Split a step's rollouts by predicted pass rate (V0, arXiv 2602.03584, section 4.3).

Maximise sum_i U(B_i, p_i), U(B, p) = B (1 - p) (1 - (1 - p)^(B - 1)), sum B_i <= total, low <= B_i <= high.
U is convex in B for small p, so spending one rollout at a time starves hard prompts; the exact dynamic
programme is the oracle, the Lagrangian a cheap near-optimum.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from trainables.errors import StrategyError
from trainables.strategies.batch import FloatArray, IntArray
from trainables.strategies.groups import Groups


def utility(count: FloatArray | IntArray, rate: FloatArray) -> FloatArray:
    """Return U(B, p); broadcasts. Expected wrong answers of a group whose others hold a right one."""
    return np.asarray(count * (1.0 - rate) * (1.0 - (1.0 - rate) ** (count - 1.0)))


def allocate(rate_P: FloatArray, total: int, low: int, high: int, method: str) -> IntArray:
    """Return rollouts per prompt, (P,), at most `total` in all.

    Raises:
        StrategyError: `low` rollouts of each prompt do not fit `total`, or `low` exceeds `high`.
    """
    if low > high:
        raise StrategyError(f"budget.low: {low} exceeds high={high}; lower low or raise high")
    if low * len(rate_P) > total:
        raise StrategyError(
            f"budget.low: {low} rollouts of {len(rate_P)} prompts exceed the step's {total}; raise "
            f"rollouts_per_step or group_size"
        )
    if not len(rate_P):
        return np.zeros(0, np.int64)
    table_PB = utility(np.arange(low, high + 1)[None, :], rate_P[:, None])
    return low + METHODS[method](table_PB, total - low * len(rate_P))


def _greedy(table_PB: FloatArray, spare: int) -> IntArray:
    """Give one rollout at a time to the largest marginal gain (the paper's rule)."""
    prompts, choices = table_PB.shape
    extra = np.zeros(prompts, np.int64)
    step_PB = np.diff(table_PB, axis=1)
    heap = [(-float(step_PB[i, 0]), i) for i in range(prompts) if choices > 1]
    heapq.heapify(heap)
    for _ in range(spare):
        if not heap:
            break
        _, i = heapq.heappop(heap)
        extra[i] += 1
        if extra[i] < choices - 1:
            heapq.heappush(heap, (-float(step_PB[i, extra[i]]), i))
    return extra


def _lagrangian(table_PB: FloatArray, spare: int) -> IntArray:
    """Let each prompt maximise U - price * B, with the price bisected to fit.

    Leftovers go where a rollout gains most, several at a time where U is convex.
    """
    cost_B = np.arange(table_PB.shape[1])
    cheap, dear = 0.0, float(np.abs(table_PB).max()) + 1.0
    extra_P = np.zeros(len(table_PB), np.int64)
    for _ in range(60):
        price = (cheap + dear) / 2.0
        wish_P = (table_PB - price * cost_B).argmax(axis=1)
        if wish_P.sum() > spare:
            cheap = price
        else:
            dear, extra_P = price, wish_P
    return _fill(table_PB, spare, extra_P)


def _fill(table_PB: FloatArray, spare: int, extra_P: IntArray) -> IntArray:
    """Spend what is left on the jump, of any size that fits, with the largest gain per rollout."""
    prompts, choices = table_PB.shape
    extra_P, rows = extra_P.copy(), np.arange(prompts)
    jump_J = np.arange(1, choices)
    while (left := spare - int(extra_P.sum())) > 0:
        to_PJ = extra_P[:, None] + jump_J[None, :]
        gain_PJ = table_PB[rows[:, None], np.minimum(to_PJ, choices - 1)] - table_PB[rows, extra_P][:, None]
        ratio_PJ = np.where((to_PJ < choices) & (jump_J <= left), gain_PJ / jump_J, -np.inf)
        if ratio_PJ.size == 0 or ratio_PJ.max() == -np.inf:
            break
        prompt, jump = np.unravel_index(int(ratio_PJ.argmax()), ratio_PJ.shape)
        extra_P[prompt] += jump_J[jump]
    return extra_P


def _exact(table_PB: FloatArray, spare: int) -> IntArray:
    """Solve the knapsack by dynamic programming: the best value of the first prompts for each spare count."""
    prompts, choices = table_PB.shape
    spare = min(spare, prompts * (choices - 1))
    best_S = np.zeros(spare + 1)
    choice_PS = np.zeros((prompts, spare + 1), np.int64)
    for i in range(prompts):
        value_S = np.full(spare + 1, -np.inf)
        for extra in range(min(choices - 1, spare) + 1):
            offer_S = best_S[: spare + 1 - extra] + table_PB[i, extra]
            better_S = offer_S > value_S[extra:]
            value_S[extra:][better_S] = offer_S[better_S]
            choice_PS[i, extra:][better_S] = extra
        best_S = value_S
    extra_P = np.zeros(prompts, np.int64)
    left = int(best_S.argmax())
    for i in range(prompts - 1, -1, -1):
        extra_P[i] = choice_PS[i, left]
        left -= int(extra_P[i])
    return extra_P


METHODS: dict[str, Callable[[FloatArray, int], IntArray]] = {
    "greedy": _greedy,
    "lagrangian": _lagrangian,
    "exact": _exact,
}


def gained(groups: Groups, prior_P: FloatArray) -> dict[str, float]:
    """Return the utility per rollout: as the prior predicted it for the rollouts drawn, and as it came out.

    The latter are wrong answers of groups that hold a right one as well.
    """
    drawn = float(groups.count_P.sum())
    if not drawn:
        return {}
    used_P = (groups.count_P > 0) & ~np.isnan(prior_P)
    rate_P = groups.scale.unit(prior_P[used_P])
    predicted = utility(groups.count_P[used_P], rate_P).sum()
    right_P = groups.scale.unit(groups.mean_P[used_P]) * groups.count_P[used_P]
    realised = np.where(right_P > 0, groups.count_P[used_P] - right_P, 0.0).sum()
    return {"utility_predicted": float(predicted / drawn), "utility_realised": float(realised / drawn)}
