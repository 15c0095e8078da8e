"""Numbers of encounters: planted ones by hand, drawn ones by loops over probes and encounters."""

from dataclasses import replace

import numpy as np
import pytest

from tests.analysis.ckl_runs import BASE, ENCOUNTERS, KINDS, MET, STEPS, make_run
from tests.analysis.claim_tables.test_acquisition import picked, table_of, value

PER_PASSAGE = ("effectivity", "rise", "fall", "net gain")
NO_MOMENT = {"moment": None, "against": None}


def scored(run, log_probs, every=1):
    """A run with other scores of probes, at every so many steps; `log_probs` are `[step probe]`."""
    from analysis.runs import TrainingRun, read_run

    run = run if isinstance(run, TrainingRun) else read_run(run)
    scores = run.scores["knowledge"]
    # Moments are looked at whatever the cadence.
    steps = np.array(sorted({*range(0, STEPS + 1, every), 20, 30, STEPS}))
    found = replace(scores, steps=steps, log_probs=log_probs[steps])
    return replace(run, scores={**run.scores, "knowledge": found})


def draws_that_fade():
    """One nat that all passages have gained with the last encounter, gone after 13 steps."""
    steps = np.arange(STEPS + 1)
    fading = np.where(steps >= 20, 1 - 0.9 * np.log10(np.maximum(steps - 20, 1)), 0)
    return np.tile(np.repeat(BASE, 3), (STEPS + 1, 1)) + fading[:, None]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def test_planted_gains(run):
    table = table_of(run)
    of = {"kind": "all", "cluster": "passage 1", **NO_MOMENT}
    # Each encounter adds 1 at once, which stays until the next.
    for exposure in ("met", "paraphrase"):
        assert value(table, "effectivity", exposure=exposure, **of) == pytest.approx(1)
        assert value(table, "rise", exposure=exposure, **of) == pytest.approx(1)
        assert value(table, "fall", exposure=exposure, **of) == pytest.approx(0)
        # Ten steps after the batch of the last encounter, nine after its update.
        left = 2 * (1 - 0.25 * np.log10(9))
        assert value(table, "net gain", exposure=exposure, **of) == pytest.approx(left)
    once = {**of, "cluster": "passage 7", "exposure": "once"}
    assert value(table, "rise", **once) == pytest.approx(1)
    assert picked(table, "fall", **once).empty
    for measure in PER_PASSAGE:
        assert "held_out" not in set(picked(table, measure)["exposure"])
    assert set(picked(table, "rise")["kind"]) == {"all", *KINDS}


@pytest.mark.parametrize("every", [1, 3])
def test_drawn_gains_by_loops(every, tmp_path):
    draws = np.random.default_rng(every).normal(-6, 1, (STEPS + 1, 3 * len(BASE)))
    run = scored(make_run(tmp_path / "run", probe_every=every), draws, every)
    table = table_of(run)
    # A round every 10 steps: so many whole looks fit in between.
    window = 10 // every
    for passage in range(MET):
        met = [step for step, some in ENCOUNTERS.items() if passage in some]
        for number, kind in enumerate(KINDS):
            curve = draws[:, 3 * passage + number]
            rises, gains, falls = [], [], []
            for i, step in enumerate(met):
                before = step - step % every
                rises.append(curve[before + every] - curve[before])
                best = max(curve[before + n * every] for n in range(1, window + 1))
                gains.append(best - curve[before])
                if i + 1 < len(met):
                    falls.append(curve[met[i + 1] - met[i + 1] % every] - best)
            last = met[-1] + 10
            left = curve[last - last % every] - curve[met[0] - met[0] % every]
            expected = {"effectivity": np.mean(gains), "rise": np.mean(rises), "net gain": left}
            if falls:
                expected["fall"] = np.mean(falls)
            for measure in PER_PASSAGE:
                rows = picked(table, measure, kind=kind, cluster=f"passage {passage}", **NO_MOMENT)
                wanted = [expected[measure]] * 2 if measure in expected else []
                assert rows["value"].tolist() == pytest.approx(wanted)
        of_kinds = picked(table, "rise", cluster=f"passage {passage}", exposure="met")
        by_kind = of_kinds.set_index("kind")["value"]
        assert by_kind["all"] == pytest.approx(np.mean([by_kind[kind] for kind in KINDS]))


def test_looks_too_far_apart_leave_all_of_it_out(tmp_path):
    every = 7
    run = make_run(tmp_path / "run", probe_every=every)
    draws = np.random.default_rng(0).normal(-6, 1, (STEPS + 1, 3 * len(BASE)))
    found = set(table_of(scored(run, draws, every))["measure"])
    assert not found & {*PER_PASSAGE, "slope", "AIC over power", "AIC over exponential"}
    assert {"K", "A", "P", "F"} <= found


def test_a_run_that_ends_before_another_encounter_would_come_has_no_net_gain(tmp_path):
    """The last encounter is 41 steps before the end."""
    for interval, has_one in ((41, True), (42, False)):
        run = make_run(tmp_path / str(interval), injection_interval=interval, steps=999)
        found = table_of(run)
        assert len(picked(found, "net gain")) == has_one * MET * 4 * 2
        assert len(picked(found, "rise"))


def test_curves_are_those_of_the_report(run):
    """And the curve of all that was met is the pooled one, fitted again here."""
    from analysis.encounter_measures import curve_tables
    from tests.analysis.ckl_runs import arms_from

    table = table_of(run)
    _, curves, points, _ = curve_tables(arms_from(run))
    assert set(curves["exposure"]) == {"paraphrase", "duplication", "once"}
    for row in curves[curves["kind"] == "all"].itertuples():
        found = value(table, "slope", exposure=row.exposure, kind="all", cluster=None, **NO_MOMENT)
        assert found == pytest.approx(row.slope)
        drawn = points[points["exposure"] == row.exposure]
        line, power, exponential = _criteria(drawn["offset"], drawn["retained"])
        of = {"exposure": row.exposure, "kind": "all"}
        # Planted curves are lines to rounding, whose logarithm is noise: only which is larger.
        assert value(table, "AIC over power", **of) > 100
        assert value(table, "AIC over exponential", **of) > 100
        assert line < min(power, exponential)


def test_the_curve_of_all_that_was_met(tmp_path):
    """Scores drawn around a fading gain; pooled by hand over passages met once and twice."""
    from analysis.forgetting_curve import log_spaced_offsets

    generator = np.random.default_rng(3)
    draws = np.tile(np.repeat(BASE, 3), (STEPS + 1, 1))
    for probe in range(3 * MET):
        steps = np.arange(STEPS + 1)
        size = generator.uniform(0.5, 2)
        later = np.maximum(steps - 20, 1)
        draws[:, probe] += np.where(steps >= 20, size * (1 - 0.6 * np.log10(later)), 0)
        draws[:, probe] += generator.normal(0, 0.05, STEPS + 1)
    table = table_of(scored(make_run(tmp_path / "run"), draws))
    offsets = np.arange(1, 60 - 19 - 10 + 1)
    assert len(offsets) < 50 < len(log_spaced_offsets(10**4))
    total, left = 0.0, np.zeros(len(offsets))
    for probe in range(3 * MET):
        passage = probe // 3
        first = min(step for step, some in ENCOUNTERS.items() if passage in some)
        best = 20 + int(np.argmax(draws[20:30, probe]))
        gain = draws[best, probe] - draws[first, probe]
        if gain > 0:
            total += gain
            left += draws[best + offsets, probe] - draws[first, probe]
    curve = left / total
    slope, _ = np.polyfit(np.log10(offsets), curve, 1)
    of = {"exposure": "met", "kind": "all", "cluster": None, **NO_MOMENT}
    assert value(table, "slope", **of) == pytest.approx(slope)
    line, power, exponential = _criteria(offsets, curve)
    # The search for a rate ends at a part in 10^8.
    assert value(table, "AIC over power", **of) == pytest.approx(power - line, abs=1e-3)
    assert value(table, "AIC over exponential", **of) == pytest.approx(exponential - line, abs=1e-3)


def _criteria(offsets, curve):
    """Akaike's of the line, the power and the exponential, by SciPy."""
    from scipy.optimize import curve_fit

    shapes = (
        (lambda t, a, b: a + b * np.log10(t), (1, -0.5)),
        (lambda t, a, b: a * t**-b, (1, 0.3)),
        (lambda t, a, b: a * np.exp(-b * t), (1, 0.05)),
    )
    t, r = np.asarray(offsets, dtype=float), np.asarray(curve, dtype=float)
    found = []
    for shape, start in shapes:
        parameters, _ = curve_fit(shape, t, r, p0=start, maxfev=10_000)
        found.append(len(t) * np.log(np.square(r - shape(t, *parameters)).sum() / len(t)) + 6)
    return found


def test_spacing_is_told_by_the_curve_of_the_shortest_interval(tmp_path):
    """Gains that fade by 0.9 a decade are gone after 13 steps: 10 is within, 14 beyond."""
    draws = draws_that_fade()
    steps = np.arange(STEPS + 1)
    flat = np.tile(np.repeat(BASE, 3), (STEPS + 1, 1)) + (steps >= 20)[:, None]
    short, long = (
        scored(make_run(tmp_path / f"run-{n}", injection_interval=n), draws) for n in (10, 14)
    )
    other = scored(make_run(tmp_path / "seed", seed=1, injection_interval=14), draws)
    # Of its own curve, which never falls, 14 would be within.
    never = replace(long, scores=scored(long, flat).scores)
    found = picked(table_of(never, short, other), "net gain", kind="all", exposure="met")
    by_run = found.groupby(["seed", "interval"])["spacing"].unique().map(list).to_dict()
    assert by_run == {(0, 10): ["within"], (0, 14): ["beyond"], (1, 14): [None]}


def test_spacing_is_said_of_net_gains_only(tmp_path):
    runs = [make_run(tmp_path / f"run-{n}", injection_interval=n) for n in (10, 14)]
    told = table_of(*runs).dropna(subset="spacing")
    assert set(told["measure"]) == {"net gain"}
    assert set(told["spacing"]) == {"within"}
