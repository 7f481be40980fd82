import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.plan_options import Oversize, PlanOptions
from beam_upscale.planning.ranges import check_at_least, check_positive, choice_of


def test_what_is_in_range_or_not_set_passes() -> None:
    check_at_least(1, threads=1, height=None)
    check_at_least(0, halo=0)
    check_positive(seconds=0.001, rate=None)


def test_the_first_that_is_too_small_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        check_at_least(1, threads=1, width=0, height=-1)

    assert caught.value.code is ErrorCode.INVALID_OPTION
    assert caught.value.message == "width is 0; it must be at least 1"


@pytest.mark.parametrize("value", [0, -1.5, float("inf"), float("nan")])
def test_what_is_not_positive_is_named(value: float) -> None:
    with pytest.raises(SettingsError) as caught:
        check_positive(rate=1.0, seconds=value)

    assert caught.value.code is ErrorCode.INVALID_OPTION
    assert caught.value.message == f"seconds is {value}; it must be above 0 and finite"


def test_a_choice_is_given_itself_or_by_its_text() -> None:
    assert choice_of(Oversize, "oversize", Oversize.TILE) is Oversize.TILE
    assert choice_of(Oversize, "oversize", "tile") is Oversize.TILE
    assert PlanOptions(oversize="tile").oversize is Oversize.TILE  # type: ignore[arg-type]


def test_what_is_no_choice_is_refused_with_the_choices() -> None:
    with pytest.raises(
        SettingsError, match=r"oversize is 'tiles'; .* reject, tile, shrink"
    ) as found:
        PlanOptions(oversize="tiles")  # type: ignore[arg-type]
    assert found.value.code is ErrorCode.INVALID_OPTION
