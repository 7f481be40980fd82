import ast

from places import ROOT

from beam_upscale.dataset.paths import output_files
from beam_upscale.dataset.paths.output_files import CARD, INTERMEDIATES, RESULTS, RUN_JSON, STAGING


def test_no_other_module_spells_the_names_of_an_outputs_files() -> None:
    spelled = {CARD, INTERMEDIATES, RUN_JSON, STAGING}
    package = ROOT / "beam_upscale"
    others = [path for path in package.rglob("*.py") if str(path) != output_files.__file__]

    found = [
        (path.relative_to(package).as_posix(), node.value)
        for path in others
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in spelled
    ]

    assert len(others) > 100
    assert found == []


def test_what_a_run_leaves_is_not_its_work_in_progress() -> None:
    assert STAGING not in RESULTS
    assert len(set(RESULTS)) == len(RESULTS)
