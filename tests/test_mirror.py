"""Each module of the package has a test of its name in `tests/unit`, or there is a reason."""

from places import ROOT

PACKAGE = ROOT / "beam_upscale"
TESTS = ROOT / "tests"

# What does no more than pass a name or a call on.
NO_CODE = {"images/decoding/__main__", "images/encoding/__main__", "run", "yaml"}

# Modules without a test of their name, by the test in which they are: each with the reason.
TESTED_WITH = {
    "unit/cli/display/test_printing": {
        "__main__": "a start of the command opens the streams to which it prints",
    },
    "unit/server/test_serve": {
        "cli/commands/serve": "the command's whole effect is a server that runs",
    },
    "unit/cli/test_main": {
        "cli/display/hints": "hints are lines of what commands print",
        "cli/display/output": "streams and exit codes are seen from outside a command",
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
        "dataset/defaults": "constants, which help texts and settings share",
    },
    "unit/dataset/hold/test_hold": {
        "dataset/hold/defaults": "one constant, which the command's help names",
        "dataset/hold/file_lock": "a lock shows its effect between processes that take a hold",
        "dataset/hold/owners": "its files are right if one of several runs has the output",
        "dataset/hold/taking": "waits and refusals need a second run that holds the output",
        "dataset/hold/terms": "a dataclass of what a hold is told",
        "dataset/output_hold": "it joins a hold to an output; tests of holds open one by it",
        "storage/beam/azure": "no Azure can be reached; it is an `ObjectStore` with another client",
        "storage/beam/gcs": "a server of GCS runs in `runners` only",
    },
    "unit/dataset/layouts/test_layout": {
        "dataset/layouts/definition": "dataclasses, of which each layout gives one, checked there",
        "dataset/layouts/files": "one definition and no function",
    },
    "unit/dataset/layouts/test_shard_files": {
        "dataset/layouts/parquet": "it must read what it writes, as every packed layout must",
    },
    "unit/dataset/test_folder": {
        "dataset/records": "a dataclass and its JSON, which the folder writes and reads",
    },
    "unit/dataset/test_record_groups": {
        "dataset/record_search": "it finds what groups and the files of single records hold",
    },
    "unit/grpc_api/test_stubs": {
        "grpc_api/contract": "constants, compared there with the messages' definitions",
        "grpc_api/stubs/pool": "one object, in which the generated modules register their messages",
    },
    "unit/images/reading/test_tiff_samples": {
        "images/containers/camera_raw": "raw files are told from the TIFFs of samples there",
        "images/reading/bare_tiff": "it is right if a strict codec gives the same samples",
    },
    "unit/images/test_bounds": {
        "images/containers/parts": "its bound holds for every container, and is tested for each",
    },
    "unit/images/containers/test_tiff": {
        "images/containers/tiff_fields": "damaged fields are damaged pages, refused there",
    },
    "unit/images/decoding/test_pool": {
        "images/decoding/child_process": "a pool starts each child, and replaces those that fail",
        "images/decoding/exchanges": "a second try and a second look need children that fail",
        "images/processes/child_process": "a pool starts each child, and replaces those that fail",
        "images/processes/children": "which children live is seen in the processes of a pool",
        "images/processes/environment": "it is given to processes, which a pool starts",
        "images/processes/kind": "what the errors of a pool say",
        "images/processes/pool": "the base of the pools of decoders and of encoders",
    },
    "unit/images/decoding/test_child": {
        "images/processes/child": "its side of the socket is seen in a child that answers",
    },
    "unit/images/decoding/test_limits": {
        "images/processes/memory_use": "what a child takes is what it is held to",
    },
    "unit/images/decoding/test_replies": {
        "images/processes/failures": "errors are right if they come out of a reply as they went in",
        "images/processes/payloads": "sizes are checked in the replies of hostile children",
    },
    "unit/images/metadata/test_beside": {
        "images/metadata/behind": "one kind of data beside a picture, noted like the others",
    },
    "unit/images/metadata/test_exif": {
        "images/metadata/directories": "they read EXIF blocks, whose tests have damaged ones",
    },
    "unit/images/containers/test_av1": {
        "images/metadata/iso_properties": "claims of boxes are compared with the coded picture",
    },
    "unit/images/reading/test_pixels": {
        "images/reading/carried_metadata": "what is carried is seen in a decoded image",
        "images/reading/source": "a dataclass between the header of a file and its pixels",
        "images/values": "dataclasses of what decoding gives",
    },
    "unit/images/reading/test_jpeg_repair": {
        "images/reading/jpeg_scan": "a scan is walked through to find what the repair mends",
    },
    "unit/images/writing/test_encoding": {
        "images/writing/encode_options": "their ranges are refused when a result is encoded",
        "images/writing/fitting": "what does not fit is missing in an encoded file, and noted",
    },
    "unit/inference/handlers/test_esrgan": {
        "inference/elements": "dataclasses that handlers take and give",
        "inference/handlers/options": "keyword arguments that handlers pass on to Beam",
    },
    "integration/test_baseline": {
        "inference/handlers/baseline": "a filter has one law, its image, seen in a run",
        "inference/handlers/registry": "a table; each of its lines is used in a run",
        "inference/weights/baselines": "a tuple of names, each used in a run",
    },
    "integration/test_diffusion": {
        "inference/handlers/latent": "its network is a whole pipeline of diffusers, run there",
    },
    "unit/pipeline/settings/test_upscale_options": {
        "inference/local_options": "one group of the options that are checked together",
        "inference/service_options": "one group of the options that are checked together",
    },
    "unit/inference/networks/torch/test_esrgan": {
        "inference/networks/memory": "one call, which a network makes after it ran out of memory",
        "inference/networks/numerics": "types and refusals are seen where a network computes",
        "inference/networks/super_resolution": "a base class; a network derived from it is tested",
    },
    "unit/inference/networks/openvino/test_network": {
        "inference/networks/openvino/runtime": "an import that every network of OpenVINO needs",
    },
    "unit/pipeline/run_state/test_booking": {
        "inference/paid_calls": "a protocol, with `booking` as its one implementation",
        "pipeline/run_state/free_repeats": "a repeat is free if its call was booked",
    },
    "unit/inference/remote/test_checking": {
        "inference/remote/channel": "a channel is opened first to check a service",
    },
    "unit/inference/remote/test_window": {
        "inference/remote/event_loop": "the loop lives and ends with the window that calls in it",
    },
    "unit/inference/weights/test_find": {
        "inference/weights/errors": "one function, called by the search for weights",
        "inference/weights/values": "dataclasses of weights that were found",
    },
    "unit/inference/weights/test_hub": {
        "inference/weights/hub_completeness": "folders are only checked once they were downloaded",
    },
    "integration/test_run_books": {
        "pipeline/settings/service": "the ledger that it names stands in the books of a run",
    },
    "unit/pipeline/test_termination": {
        "pipeline/execution": "it must end a real run on a real signal",
    },
    "unit/pipeline/large_images/test_changed_files": {
        "pipeline/one_image/file_version": "files are replaced while tiles of them are read",
    },
    "unit/pipeline/large_images/test_spread": {
        "pipeline/large_images/memory": "what a worker gives back is seen in peaks of memory only",
        "pipeline/large_images/states": "dataclasses between the steps of a large image",
    },
    "unit/pipeline/large_images/test_tiles": {
        "pipeline/large_images/tile_folder": "its files are those that tiles leave",
    },
    "unit/pipeline/test_upscale": {
        "pipeline/one_image/run_inference": "awaited results are seen where they leave it",
    },
    "unit/pipeline/one_image/test_finish": {
        "pipeline/one_image/image_errors": "an error becomes a row, which is complete at the end",
        "pipeline/one_image/rows": "rows are complete at the end",
        "pipeline/one_image/tiles": "tiles are right if the stitched image is",
    },
    "unit/pipeline/test_run": {
        "pipeline/request": "dataclasses of a run, and what a run refuses",
    },
    "unit/pipeline/settings/test_settings_json": {
        "pipeline/settings/pinned": "a dataclass, which comes back from JSON as it was",
    },
    "unit/planning/test_plan": {
        "planning/plan_options": "their ranges and contradictions are refused where a plan is made",
    },
    "unit/server/accounts/test_ledger": {
        "server/accounts/charges": "dataclasses and errors of the ledger, made and read there",
    },
    "unit/server/test_service": {
        "server/answers": "an answer is right if a client of the service reads it",
    },
    "unit/server/test_calls": {
        "server/flights": "callers that share a call are seen in calls to a server",
    },
    "unit/server/test_requests": {
        "server/refusals": "error classes, which the checks of requests raise",
    },
    "unit/server/web/test_bridge": {
        "server/web/bootstrap": "it is right if Envoy starts with it and bridges calls",
    },
    "unit/sources/formats/test_input_format": {
        "sources/formats/definition": "dataclasses, of which each format gives one, checked there",
    },
    "unit/sources/test_discovery": {
        "sources/formats/entries": "a list on disk, filled and read by the discovery of inputs",
        "sources/inputs/found_inputs": "a list on disk, filled by the discovery of inputs",
    },
    "unit/sources/locations/test_reading": {
        "sources/locations/file_parts": "dataclasses; reading is their only use",
    },
    "unit/sources/formats/test_csv": {
        "sources/parsing/separated_values": "its quoting is tested with the rows of whole files",
    },
    "unit/storage/beam/test_requirements": {
        "storage/beam/options": "three lines that keep the options which `requirements` checks",
    },
    "unit/storage/test_stores": {
        "storage/protocol/store": "a protocol; a new store shows what it demands",
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
    "unit/pipeline/large_images/test_changed_files": "files that change while tiles are read",
    "unit/pipeline/run_state/test_assigned_names": "names and shards over several runs",
    "unit/pipeline/test_gathered_images": "runs that gather small images, beside runs that do not",
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
