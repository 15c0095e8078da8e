"""The released scripts' arithmetic for effectivity, retainability and the trend line, typed again.

Lists and loops, one probe at a time, on losses (negative log-probabilities). Where the scripts have
numbers in the code (groups of 40 passages, injections every 100 steps, a window of 50), these take
them as arguments.
"""

from math import log10


def percentile(values: list[float], share: float) -> float:
    """By linear interpolation between the two nearest in order."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def without_outliers(values: list[float], multiplier: float) -> list[float]:
    """Those within the quartiles, widened by a multiple of their distance."""
    low, high = percentile(values, 0.25), percentile(values, 0.75)
    reach = multiplier * (high - low)
    return [value for value in values if low - reach <= value <= high + reach]


def mean(values: list[float]) -> float:
    """Their sum over their number."""
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def place_of_minimum(losses: list[float], injection: int, window: int) -> int:
    """The first step with the lowest loss within the window after an injection."""
    best = injection + 1
    for step in range(injection + 1, injection + window + 1):
        if losses[step] < losses[best]:
            best = step
    return best


def effectivity(
    losses: list[list[float]], injections: list[int], window: int, multiplier: float = 2.0
) -> float:
    """Mean over probes and injections, at once, after outliers are dropped."""
    gains = []
    for probe in losses:
        if probe[place_of_minimum(probe, injections[-1], window)] == probe[0]:
            continue  # skipped with the retainability that it cannot have
        for injection in injections:
            lowest = place_of_minimum(probe, injection, window)
            gains.append(probe[injection] - probe[lowest])
    return mean(without_outliers(gains, multiplier))


def retainability_at(
    losses: list[list[float]],
    injections: list[int],
    offset: int,
    window: int,
    multiplier: float = 2.0,
) -> float:
    """Mean over probes in percent, after the outliers at this offset are dropped."""
    shares = []
    for probe in losses:
        lowest = place_of_minimum(probe, injections[-1], window)
        if probe[lowest] == probe[0]:
            continue
        left = (probe[lowest + offset] - probe[0]) / (probe[lowest] - probe[0])
        shares.append(left * 100)
    return mean(without_outliers(shares, multiplier))


def trend_line(percentages: list[float]) -> dict[str, float]:
    """What is printed of a file of retainabilities at offsets 0, 1, 2, ...: slope, crossing, fit."""
    values = percentages[1:]
    steps = list(range(1, len(percentages)))
    if values[0] < 0:
        values = [-value for value in values]
    pairs = [
        (log10(step), value / 100)
        for step, value in zip(steps, values, strict=True)
        if value / 100 != -1.0
    ]
    x_mean = mean([x for x, _ in pairs])
    y_mean = mean([y for _, y in pairs])
    spread = sum((x - x_mean) ** 2 for x, _ in pairs)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in pairs) / spread
    intercept = y_mean - slope * x_mean
    squares = sum((y - intercept - slope * x) ** 2 for x, y in pairs)
    total = sum((y - y_mean) ** 2 for _, y in pairs)
    return {
        "slope": slope,
        "x_intercept": -intercept / slope,
        "one_sigma": (squares / (len(pairs) - 2)) ** 0.5 / spread**0.5,
        "r_squared": 1 - squares / total,
    }
