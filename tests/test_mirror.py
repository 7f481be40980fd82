"""Each module of the package has a test of its name in `tests/unit`, or there is a reason."""

from places import ROOT

PACKAGE = ROOT / "beam_upscale"
TESTS = ROOT / "tests"

# What does no more than pass a name or a call on.
NO_CODE = {"images/decoding/__main__", "run", "yaml"}

# Modules without a test of their name, by the test in which they are: each with the reason.
TESTED_WITH = {
    "unit/cli/display/test_printing": {
        "__main__": "it starts the command, and opens streams to print to",
    },
    "unit/server/test_serve": {
        "cli/commands/serve": "a server that runs shows what the command does",
    },
    "unit/cli/test_main": {
        "cli/display/hints": "hints are seen where commands print them",
        "cli/display/output": "streams and exit codes are the command line's",
        "cli/options/beam": "options are seen through the commands that take them",
        "cli/options/encoding": "options are seen through the commands that take them",
        "cli/options/fields": "options are seen through the commands that take them",
        "cli/options/inputs": "options are seen through the commands that take them",
        "cli/options/networks": "options are seen through the commands that take them",
        "cli/options/planning": "options are seen through the commands that take them",
        "cli/options/run": "options are seen through the commands that take them",
        "cli/options/service": "options are seen through the commands that take them",
        "cli/options/serving": "options are seen through the commands that take them",
        "cli/options/types": "types of options are seen through what they refuse",
    },
    "unit/pipeline/settings/test_upscale_settings": {
        "dataset/defaults": "values",
    },
    "unit/dataset/hold/test_hold": {
        "dataset/hold/defaults": "a value",
        "dataset/hold/file_lock": "the parts of a hold work together, against other processes",
        "dataset/hold/owners": "the parts of a hold work together, against other processes",
        "dataset/hold/state": "the parts of a hold work together, against other processes",
        "dataset/hold/taking": "the parts of a hold work together, against other processes",
        "dataset/hold/terms": "values",
        "dataset/output_hold": "it takes a hold on an output",
        "storage/beam/azure": "no test has an Azure to talk to",
        "storage/beam/gcs": "runs in `runners` talk to one",
        "storage/beam/object_store": "a hold relies on conditional writes",
        "storage/beam/s3": "a hold relies on conditional writes",
    },
    "unit/dataset/layouts/test_layout": {
        "dataset/layouts/definition": "a definition is what a layout gives",
        "dataset/layouts/files": "a definition is what a layout gives",
    },
    "unit/dataset/layouts/test_shard_files": {
        "dataset/layouts/parquet": "what one function writes another reads, in each layout",
    },
    "unit/dataset/test_folder": {
        "dataset/records": "a record is what a folder keeps of an input",
    },
    "unit/grpc_api/test_stubs": {
        "grpc_api/contract": "values, which the messages and both sides have in common",
        "grpc_api/stubs/pool": "messages are made in it",
    },
    "unit/images/reading/test_tiff_samples": {
        "images/containers/camera_raw": "photographs of a sensor are told from other TIFFs",
        "images/reading/bare_tiff": "samples are right whoever reads them",
    },
    "unit/images/test_bounds": {
        "images/containers/parts": "the bounds of all containers",
    },
    "unit/images/containers/test_tiff": {
        "images/containers/tiff_fields": "fields are seen through pages",
    },
    "unit/images/decoding/test_pool": {
        "images/decoding/child_process": "a process is seen through the pool that starts it",
        "images/decoding/children": "children are those of a pool",
        "images/decoding/environment": "what a decoder's process inherits",
    },
    "unit/images/metadata/test_beside": {
        "images/metadata/behind": "what stands behind a picture is one thing beside it",
    },
    "unit/images/metadata/test_exif": {
        "images/metadata/directories": "directories are those of EXIF",
    },
    "unit/images/containers/test_av1": {
        "images/metadata/iso_properties": "what boxes claim is compared with what is coded",
    },
    "unit/images/reading/test_pixels": {
        "images/reading/carried_metadata": "metadata comes with pixels",
        "images/reading/source": "a value between header and pixels",
        "images/values": "values",
    },
    "unit/images/reading/test_jpeg_repair": {
        "images/reading/jpeg_scan": "scans are looked at to mend them",
    },
    "unit/images/reading/test_regions": {
        "images/reading/row_readers": "rows are read of regions",
    },
    "unit/images/writing/test_encoding": {
        "images/writing/encode_options": "options of encoding",
        "images/writing/fitting": "pixels are fitted to a format when they are encoded",
    },
    "unit/inference/handlers/test_esrgan": {
        "inference/elements": "values that handlers take and give",
        "inference/handlers/options": "options of a handler, which Beam describes",
    },
    "integration/test_baseline": {
        "inference/handlers/baseline": "a resampling filter is seen in a whole run",
        "inference/handlers/registry": "each kind of engine is seen in a whole run",
        "inference/weights/baselines": "values",
    },
    "integration/test_diffusion": {
        "inference/handlers/latent": "a diffusion network is seen in a whole run",
    },
    "unit/pipeline/settings/test_upscale_options": {
        "inference/local_options": "options of a run, in part",
        "inference/service_options": "options of a run, in part",
        "pipeline/settings/large_image_options": "options of a run, in part",
    },
    "unit/inference/networks/torch/test_esrgan": {
        "inference/networks/memory": "memory ends in a network",
        "inference/networks/numerics": "numbers come from a network",
        "inference/networks/super_resolution": "the interface of networks",
    },
    "unit/inference/networks/openvino/test_network": {
        "inference/networks/openvino/runtime": "the library runs a network",
    },
    "unit/pipeline/run_state/test_booking": {
        "inference/paid_calls": "the interface of booking",
        "pipeline/run_state/free_repeats": "what is free was booked",
    },
    "unit/inference/remote/test_checking": {
        "inference/remote/channel": "a channel is opened to be checked",
    },
    "unit/inference/remote/test_window": {
        "inference/remote/event_loop": "the loop is that of a window",
    },
    "unit/inference/weights/test_find": {
        "inference/weights/errors": "an error",
        "inference/weights/values": "values",
    },
    "unit/inference/weights/test_hub": {
        "inference/weights/hub_completeness": "what a download lacks is seen in downloads",
    },
    "integration/test_run_books": {
        "pipeline/settings/service": "entries name the ledger of the service that was checked",
    },
    "integration/test_own_columns": {
        "pipeline/commit/completion": "a whole run shows which shards are written anew",
    },
    "unit/pipeline/test_termination": {
        "pipeline/execution": "a pipeline is watched for signals that end it",
    },
    "unit/pipeline/large_images/test_spread": {
        "pipeline/one_image/file_version": "files are replaced while tiles are read",
        "pipeline/large_images/assemble": "the steps of a large image are seen in whole runs",
        "pipeline/large_images/cut": "the steps of a large image are seen in whole runs",
        "pipeline/large_images/memory": "the steps of a large image are seen in whole runs",
        "pipeline/large_images/states": "the steps of a large image are seen in whole runs",
        "pipeline/large_images/tile_folder": "the steps of a large image are seen in whole runs",
        "pipeline/large_images/tiles": "the steps of a large image are seen in whole runs",
    },
    "unit/pipeline/test_upscale": {
        "pipeline/one_image/run_inference": "awaited results leave the transform",
    },
    "unit/pipeline/one_image/test_finish": {
        "pipeline/one_image/image_errors": "errors of an image are rows at the end",
        "pipeline/one_image/rows": "rows are complete at the end",
        "pipeline/one_image/states": "values between the steps of an image",
        "pipeline/one_image/tiles": "tiles are cut, and joined at the end",
    },
    "unit/pipeline/test_run": {
        "pipeline/request": "a request is for a run",
    },
    "unit/pipeline/settings/test_settings_json": {
        "pipeline/settings/pinned": "pinned settings are those that are kept",
    },
    "unit/planning/test_plan": {
        "planning/plan_options": "options of a plan",
    },
    "unit/server/accounts/test_ledger": {
        "server/accounts/charges": "values of a ledger",
    },
    "unit/server/test_service": {
        "server/answers": "answers of a service",
    },
    "unit/server/test_calls": {
        "server/flights": "calls that are computed while others wait for them",
    },
    "unit/server/test_server_hostile": {
        "server/listening": "what listens is attacked",
    },
    "unit/server/test_requests": {
        "server/refusals": "errors of requests",
    },
    "unit/server/web/test_bridge": {
        "server/web/bootstrap": "a configuration is seen in what it configures",
    },
    "unit/sources/formats/test_input_format": {
        "sources/formats/definition": "a definition is what a format gives",
    },
    "unit/sources/test_discovery": {
        "sources/formats/entries": "the files of a listing",
        "sources/inputs/found_inputs": "the inputs of a listing",
    },
    "unit/sources/locations/test_reading": {
        "sources/locations/file_parts": "values",
    },
    "unit/sources/formats/test_csv": {
        "sources/parsing/separated_values": "logical lines are read as rows of CSV",
    },
    "unit/sources/formats/test_webdataset": {
        "sources/parsing/tar_members": "members are read to be listed",
    },
    "unit/storage/beam/test_requirements": {
        "storage/beam/options": "options decide what is lacking",
    },
    "unit/storage/test_stores": {
        "storage/protocol/remote_store": "a new store has all that it gives",
        "storage/protocol/store": "a new store has all that it gives",
    },
}
# Tests of several modules of a package: each with what it is about.
OF_PACKAGES = {
    "unit/grpc_api/test_stubs": "the generated messages",
    "unit/images/test_any_function_fails": "mistakes of our own, in any function",
    "unit/images/test_bounds": "files that say little and cost much",
    "unit/images/test_thin_pictures": "pictures of one pixel, row or column, in and out",
    "unit/inference/networks/diffusion/test_latent_tiles": "tiles of a diffusion network",
    "unit/inference/networks/test_packaged_weights": "results of the default weights",
    "unit/inference/networks/test_reference": "results beside those of another program",
    "unit/inference/networks/test_seams": "halos of real networks",
    "unit/pipeline/run_state/test_assigned_names": "names and shards over several runs",
    "unit/server/test_broken_process": "processes that end under a server",
    "unit/server/test_request_properties": "laws of all requests",
    "unit/server/test_server_hostile": "attacks on a server that runs",
}
EXCEPTIONS = NO_CODE.union(*TESTED_WITH.values())


def modules() -> set[str]:
    found = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return {
        path.as_posix()
        for path in found
        if path.name != "__init__" and not path.name.endswith("_pb2")
    }


def expected(module: str) -> str:
    package, _, name = module.rpartition("/")
    return f"unit/{package}/test_{name}" if package else f"unit/test_{name}"


def is_there(test: str) -> bool:
    return (TESTS / f"{test}.py").is_file()


def test_modules_have_tests_of_their_names() -> None:
    without = {module for module in modules() if not is_there(expected(module))}

    assert without - EXCEPTIONS == set()


def test_exceptions_are_modules_without_tests_of_their_names() -> None:
    assert EXCEPTIONS - modules() == set()
    assert {module for module in EXCEPTIONS if is_there(expected(module))} == set()
    assert {test for test in TESTED_WITH if not is_there(test)} == set()


def test_tests_are_named_after_modules() -> None:
    found = (path.relative_to(TESTS).with_suffix("") for path in TESTS.glob("unit/**/test_*.py"))
    names = {path.as_posix() for path in found}

    assert names - {expected(module) for module in modules()} == OF_PACKAGES.keys()
