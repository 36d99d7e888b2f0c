"""What a study searches: swept overrides as Optuna's distributions, and a trial's values as overrides again."""

from __future__ import annotations

from itertools import combinations, islice, product
from random import Random
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from microlatent.overrides import quoted
from microlatent.schemas.checks import nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TAGS = ("log",)
ENOUGH = 10_000  # neighbours of a trial that are looked at for each set of keys


def distributions(swept: list[Override], settings: dict[str, Any]) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of every swept key.

    Parameters
    ----------
    swept
        ``key=1,2,3`` is a choice, ``key=range(1,9,2)`` steps, ``key=interval(1e-4,1e-2)`` a range of numbers,
        ``key=tag(log,interval(1e-4,1e-2))`` one whose magnitudes are equally likely.
    settings
        Dotted keys of one job's checked settings: an interval of a setting that is a whole number draws whole numbers.

    Raises
    ------
    ValueError
        Nothing is swept, or a range makes no sense.
    """
    if not swept:
        raise ValueError(
            "hydra/sweeper=study has nothing to search. Name the values of at least one setting: model.latent_dim=8,16,32, or "
            "'trainer.lr=tag(log,interval(1e-4,1e-2))'."
        )
    return {one.get_key_element(): _distribution(one, settings) for one in swept}


def _distribution(override: Override, settings: dict[str, Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    key, value = override.get_key_element(), override.value()
    unknown = sorted(set(getattr(value, "tags", ())) - set(TAGS))
    if unknown:
        raise ValueError(f"{override.input_line}: {unknown[0]!r} is no tag of a study. {nearest(unknown[0], TAGS)}")
    is_log = "log" in getattr(value, "tags", ())
    is_whole = type(settings.get(key)) is int
    try:
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            if low is None or high is None:
                raise ValueError("an interval has two ends")
            if low > high:
                raise ValueError(f"its lower end, {low}, is above its upper end, {high}")
            if is_whole and not (float(low).is_integer() and float(high).is_integer()):
                raise ValueError(f"{key} is a whole number, and so must be the ends of its interval")
            if is_whole or isinstance(low, int):
                return IntDistribution(int(low), int(high), log=is_log)
            return FloatDistribution(low, high, log=is_log)
        if isinstance(value, RangeSweep) and not is_log and (steps := list(value.range())):
            step = abs(value.step)
            kind: Any = IntDistribution if isinstance(steps[0], int) else FloatDistribution
            return kind(min(steps), max(steps), step=step)
        choices = list(override.sweep_string_iterator())
        if is_log:
            raise ValueError("the tag log is for an interval")
        if not choices or len(choices) > len(set(choices)):
            raise ValueError(f"its values are {choices or 'none'}, but must be different ones, at least one")
        return CategoricalDistribution(choices)
    except ValueError as error:
        raise ValueError(f"{override.input_line} cannot be searched: {str(error).rstrip('.')}.") from error


def overrides(params: dict[str, Any]) -> list[str]:
    """Return a trial's values as one types them."""
    return [f"{key}={value if isinstance(value, str) else quoted(value)}" for key, value in params.items()]  # text is as typed


def probes(space: dict[str, Any]) -> list[dict[str, Any]]:
    """Return points that hold every choice and every end of a range at least once, to be checked before the first trial."""
    from optuna.distributions import CategoricalDistribution

    extremes = {
        key: list(one.choices) if isinstance(one, CategoricalDistribution) else [one.low, one.high] for key, one in space.items()
    }
    first = {key: values[0] for key, values in extremes.items()}
    return [first, *(first | {key: value} for key, values in extremes.items() for value in values[1:])]


def untried(space: dict[str, BaseDistribution], tried: list[dict[str, Any]], near: dict[str, Any]) -> dict[str, Any] | None:
    """Return values that no trial has had, in as few keys as possible other than ``near``; None where there are none left.

    Of equally near ones the choice follows from how many were tried, so a study repeats itself. A space with an interval of any
    number has always more.
    """
    options = {key: values for key, one in space.items() if (values := _values(one)) is not None}
    if len(options) < len(space):
        return near
    seen = {tuple(one[key] for key in space) for one in tried}
    random = Random(len(tried))
    for changed in range(1, len(space) + 1):
        found = []
        for keys in combinations(space, changed):
            others = [[value for value in options[key] if value != near[key]] for key in keys]
            points = (near | dict(zip(keys, values, strict=True)) for values in product(*others))
            found += [point for point in islice(points, ENOUGH) if tuple(point[key] for key in space) not in seen]
        if found:
            return random.choice(found)
    return None


def _values(one: Any) -> list[Any] | None:
    """Return the values of a distribution; None where they cannot be counted."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(one, CategoricalDistribution):
        return list(one.choices)
    if isinstance(one, FloatDistribution):
        return (
            None
            if one.step is None
            else [one.low + step * one.step for step in range(round((one.high - one.low) / one.step) + 1)]
        )
    return list(range(one.low, one.high + 1, one.step))
