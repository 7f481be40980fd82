"""The command `verify`."""

from pathlib import Path

from runs import command, quick


def test_verify_exits_1_for_a_dataset_that_is_not_what_it_was(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    command("run", photographs, output, *quick(tiny_weights))

    intact = command("verify", output)
    (output / "images/stray.png").write_bytes(b"")
    changed = command("verify", output)
    missing = command("verify", tmp_path / "nowhere")

    assert (intact.code, changed.code, missing.code) == (0, 1, 1)
    assert intact.out == f"{output} matches its manifest, byte for byte\n"
    assert changed.out.startswith("stray_file  images/stray.png")
    assert "incomplete  run.json  there is no run.json" in missing.out
