"""Slopes, ratios and means of what was measured."""

import math

import measured_rows
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pipeline import figures
from benchmarks.pipeline.figures import Better, Figure
from benchmarks.pipeline.participants import BEAM, OURS

PARTS = {"throughput", "real weights", "service", "growth"}
NUMBERS = st.floats(-1e3, 1e3)


def of(name: str, rows: list[dict[str, object]]) -> Figure:
    [found] = [figure for figure in figures.figures(rows) if figure.name == name]
    return found


@given(NUMBERS, NUMBERS, st.sets(st.integers(-1000, 1000), min_size=2, max_size=9))
def test_slope_of_a_line_is_its_own(rise: float, start: float, xs: set[int]) -> None:
    found = figures.slope((x, start + rise * x) for x in xs)

    assert found == pytest.approx(rise, abs=1e-6)


def test_slope_is_that_of_the_least_squares() -> None:
    assert figures.slope([(0, 0), (1, 2), (2, 1)]) == pytest.approx(0.5)


@pytest.mark.parametrize("points", [[], [(3, 1)], [(3, 1), (3, 2)]])
def test_slope_needs_two_places(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="two different x"):
        figures.slope(points)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_mean_of_inverses_is_the_inverse_of_the_mean(values: list[float]) -> None:
    inverse = figures.geometric_mean(1 / value for value in values)

    assert inverse == pytest.approx(1 / figures.geometric_mean(values))


@pytest.mark.parametrize("values", [[], [0.0], [2.0, -1.0]])
def test_a_mean_needs_values_above_0(values: list[float]) -> None:
    with pytest.raises(ValueError, match="needs values above 0"):
        figures.geometric_mean(values)


@pytest.mark.parametrize(
    ("main_cpu", "all_cpu", "images_per_second"),
    [
        (0.0005, 0.016, 1000),  # All cores are busy: 16 / 0.016.
        (0.002, 0.016, 500),  # One process can do no more: 1 / 0.002.
    ],
)
def test_more_cores_help_until_one_process_is_busy(
    main_cpu: float, all_cpu: float, images_per_second: float
) -> None:
    assert figures.projected(main_cpu, all_cpu) == pytest.approx(images_per_second)


def test_start_up_counts_for_nothing() -> None:
    rows = measured_rows.throughput()
    late = [{**row, "seconds": row["seconds"] + 100} for row in rows]

    expected = pytest.approx([measured_rows.RATES[OURS]] * 2)
    for each in (rows, late):
        assert figures.rates(figures.select(each, command=OURS)) == expected


def test_repeats_are_not_mixed() -> None:
    rows = figures.select(measured_rows.throughput(), command=OURS)
    slower = [{**row, "seconds": row["seconds"] * (1 + row["repeat"])} for row in rows]

    assert figures.rates(slower) == pytest.approx([400, 200])


def test_ratios_are_to_each_peer() -> None:
    rows = measured_rows.throughput()

    to_daft = of("PNG 64: images a second, to Daft", rows)
    to_our_encoder = of("PNG 64: images a second, to Daft with our encoder", rows)
    to_beam = of("PNG 64: images a second, to bare Beam", rows)

    assert to_daft.values == pytest.approx([1.25, 1.25])
    assert to_our_encoder.mean == pytest.approx(0.5)
    assert to_beam.mean == pytest.approx(2.0)
    assert (to_daft.bound, to_our_encoder.bound, to_beam.bound) == (1.0, 0.4, 1.7)
    assert to_daft.holds and to_our_encoder.holds and to_beam.holds


def test_peers_that_were_not_measured_are_left_out() -> None:
    names = {
        figure.name for figure in figures.figures(measured_rows.throughput({OURS: 1, BEAM: 1}))
    }

    assert "PNG 64: images a second, to bare Beam" in names
    assert not any("Daft" in name or "Pillow" in name for name in names)


def test_png_bytes_are_to_those_of_pillow() -> None:
    sizes = of("PNG 64: bytes of a PNG, to Pillow's default", measured_rows.throughput())

    assert sizes.mean == pytest.approx(1.1)
    assert (sizes.better, sizes.bound, sizes.holds) == (Better.LESS, 1.15, True)


def test_cpu_is_in_milliseconds_and_no_ratio() -> None:
    rows = measured_rows.throughput()

    main = of("PNG 64: CPU of the process that drives the device", rows)
    wide = of("PNG 64: 16 cores would give", rows)

    assert main.mean == pytest.approx(0.8)
    assert main.holds is True
    assert not main.is_ratio
    assert wide.mean == pytest.approx(1250)  # 1 / 0.8 ms, and not 16 / 4 ms.


def test_real_weights_are_to_the_bare_network() -> None:
    rows = list(measured_rows.real_weights(ours=2.7, bare=3.0))

    found = of("real weights: images a second, to the bare network", rows)

    assert found.mean == pytest.approx(0.9)
    assert found.holds is False


def test_linear_is_so_many_times_the_fewest_workers() -> None:
    rows = list(measured_rows.service())

    assert of("service, one process, workers 2: to linear", rows).mean == pytest.approx(1.0)
    most = of("service, one process, workers 16: to linear", rows)
    assert most.mean == pytest.approx(0.9)
    assert of("service, Flink, workers 16: to linear", rows).mean == pytest.approx(0.9)
    unused = of("service, Flink, workers 16: to calls without pause", rows)
    assert unused.mean == pytest.approx(0.855)


def test_growth_along_a_line_is_one() -> None:
    rows = list(measured_rows.growth())

    found = [figure for figure in figures.figures(rows) if figure.name.startswith("growth")]

    assert len(found) == 4
    assert [figure.mean for figure in found] == pytest.approx([1] * 4)


def test_growth_that_bends_upwards_is_more_than_one() -> None:
    rows = [{**row, "seconds": row["x"] ** 1.5} for row in measured_rows.growth()]

    bent = of("growth by images: seconds of one more, last step to the one before", rows)

    assert bent.mean > 2


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_worse_by_as_much_in_both_directions(now: float, earlier: float) -> None:
    more = Figure("a", (now,)).worsened(Figure("a", (earlier,)))
    less = Figure("a", (1 / now,), Better.LESS).worsened(Figure("a", (1 / earlier,), Better.LESS))

    assert more == pytest.approx(less, abs=1e-9)
    assert (more > 0) == (now < earlier) or math.isclose(now, earlier)


def test_every_part_has_figures_of_names_of_their_own() -> None:
    rows = measured_rows.all_parts()
    names = [figure.name for figure in figures.figures(rows)]

    assert len(set(names)) == len(names)
    assert {row["part"] for row in rows} == PARTS
    for part in PARTS:
        assert figures.figures(figures.select(rows, part=part))
    assert figures.figures([]) == []
