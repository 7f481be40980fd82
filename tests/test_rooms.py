"""The rooms of the package: what each may import, how large its modules are, how they are drawn.

`docs/architecture.md` explains the rooms; `docs/rooms.py` measures them.
"""

import ast
import functools
import re
from collections import Counter, defaultdict

import pytest
import rooms
from rooms import Module

MODULES = rooms.modules()

# A module imports from its own room and from those before it, and never in a circle.
ORDER = [
    *("errors", "grpc_api", "storage", "planning", "images", "dataset", "sources", "inference"),
    *("pipeline", "server", "cli"),
]

# Public names that stand in no room: users have them in their code.
ENTRIES = {"", "__main__", "run", "yaml"}

# The third-party packages that a room may import, at any place in a module. Of a package that has a
# line of its own, that line holds, and not its room's.
LIBRARIES = {
    "errors": set(),
    "grpc_api": {"google", "grpc", "grpc_status"},
    "storage": {"apache_beam", "azure", "boto3", "google", "idna", "requests", "urllib3"},
    "planning": set(),
    "images": {"PIL", "deflate", "numpy", "pillow_heif", "pyvips", "zlib_ng"},
    "dataset": {"pyarrow"},
    "sources": {"pyarrow"},
    "inference": {"numpy"},
    "inference.networks": {
        *("diffusers", "numpy", "openvino", "safetensors", "spandrel", "torch", "transformers"),
    },
    "inference.weights": {"filelock", "huggingface_hub", "numpy"},
    "inference.networks.openvino": {"numpy", "openvino", "safetensors"},
    "inference.networks.torch": {"numpy", "safetensors", "spandrel", "torch"},
    "inference.remote": {"google", "grpc", "numpy"},
    "inference.handlers": {"apache_beam", "numpy"},
    "pipeline": {"apache_beam", "numpy", "pyarrow"},
    "server.accounts": {"filelock"},
    "server.monitoring": {"prometheus_client", "pythonjsonlogger"},
    "server": {
        *("envoy", "filelock", "google", "grpc", "grpc_health", "grpc_reflection", "limits"),
        *("numpy", "prometheus_client", "pythonjsonlogger"),
    },
    "cli": {"click", "rich"},
}

# Libraries that are never imported along with a room, not by what it imports either.
NEVER_ALONG = {
    "storage.files": {"apache_beam", "requests"},
    "planning": {"apache_beam", "numpy", "pyarrow"},
    "images": {"apache_beam", "pyarrow", "torch"},
    "dataset": {"apache_beam"},
    "inference.networks": {"apache_beam", "pyarrow"},
    "inference.weights": {"apache_beam", "pyarrow", "torch"},
    "inference.remote": {"apache_beam", "torch"},
}

# Packages that import from no package but these and their own.
IMPORTS_ONLY = {
    "grpc_api": set(),
    "storage": {"errors"},
    "storage.uris": {"errors"},
    "storage.protocol": {"errors", "storage.uris"},
    "planning": {"errors"},
    "images.containers": {"errors"},
    "dataset.paths": set(),
    "dataset.hold": {"errors", "storage", "dataset.paths"},
    "dataset.manifest": {"errors"},
    "sources.locations": {"errors", "storage"},
    "server.monitoring": set(),
}

# Packages whose docstrings say what they do not know, and the packages that this means.
KNOWS_NOTHING_OF = {
    "dataset.layouts": {"dataset.hold"},
    "images.reading": {"images.decoding", "images.encoding", "images.writing"},
    "images.processes": {"images.decoding", "images.encoding", "images.reading", "images.writing"},
    "images.encoding": {"images.decoding", "images.reading"},
    "sources.inputs": {"sources.formats"},
    "sources.parsing": {"sources.formats"},
    "pipeline.one_image": {"pipeline.commit", "pipeline.large_images"},
    "pipeline.large_images": {"pipeline.commit"},
}

MOST_MODULES = 15
MOST_LINES = 400

# Files that are longer, each with its reason.
LONGER: dict[str, str] = {}


def short(module: Module) -> str:
    return module.name.removeprefix(rooms.PACKAGE).removeprefix(".")


IN_ROOMS = [module for module in MODULES.values() if short(module) not in ENTRIES]


def test_every_room_has_its_place() -> None:
    assert {module.room for module in IN_ROOMS} <= set(ORDER)
    assert set(LIBRARIES) >= set(ORDER)


def test_modules_import_from_their_room_and_those_before() -> None:
    wrong = [
        (short(module), name)
        for module in IN_ROOMS
        for name in rooms.imported_modules(module, MODULES)
        if MODULES[name].room not in ORDER[: ORDER.index(module.room) + 1]
    ]

    assert wrong == []


def test_rooms_keep_to_their_libraries() -> None:
    wrong = {
        short(module): others
        for module in IN_ROOMS
        if (others := rooms.foreign_libraries(module) - libraries_of(module))
    }

    assert wrong == {}


def libraries_of(module: Module) -> set[str]:
    """The line of LIBRARIES that holds for a module: that of its innermost package."""
    name = short(module)
    while name not in LIBRARIES:
        name = name.rpartition(".")[0]
    return LIBRARIES[name]


def test_light_rooms_stay_light() -> None:
    wrong = {
        short(module): heavy
        for place, libraries in NEVER_ALONG.items()
        for module in IN_ROOMS
        if f"{short(module)}.".startswith(f"{place}.")
        and (heavy := imported_along(module.name) & libraries)
    }

    assert wrong == {}


@functools.cache
def imported_along(name: str) -> frozenset[str]:
    """The third-party packages that are imported when a module is, and packages around it."""
    module = MODULES[name]
    found = rooms.foreign_libraries(module, at_once=True)
    others = rooms.imported_modules(module, MODULES, at_once=True)
    around = name.rpartition(".")[0]
    if around and around != rooms.PACKAGE:
        others |= {around}
    return frozenset(found.union(*map(imported_along, others - {name})))


def test_modules_import_in_no_circle() -> None:
    graph = {name: rooms.imported_modules(module, MODULES) for name, module in MODULES.items()}

    assert rooms.circles(graph) == []


def test_packages_import_in_no_circle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module in IN_ROOMS:
        imported = rooms.imported_modules(module, MODULES)
        graph[module.package] |= {MODULES[name].package for name in imported} - {module.package}

    assert rooms.circles(graph) == []


def test_circles_are_found() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": [], "e": ["e"]}

    assert rooms.circles(graph) == [["b", "c"], ["e"]]


def test_packages_are_small() -> None:
    sizes = Counter(module.package for module in MODULES.values() if not module.is_package)

    assert {name: size for name, size in sizes.items() if size > MOST_MODULES} == {}


def test_modules_are_short() -> None:
    assert {short(each) for each in IN_ROOMS if each.lines > MOST_LINES} == set(LONGER)


def test_packages_keep_to_the_imports_that_they_name() -> None:
    wrong = [
        (short(module), name)
        for place, allowed in IMPORTS_ONLY.items()
        for module in modules_of(place)
        for name in rooms.imported_modules(module, MODULES)
        if not is_within(name, {place, *allowed})
    ]

    assert wrong == []


def test_packages_do_not_know_what_they_say_they_do_not() -> None:
    wrong = [
        (short(module), name)
        for place, unknown in KNOWS_NOTHING_OF.items()
        for module in modules_of(place)
        for name in rooms.imported_modules(module, MODULES)
        if is_within(name, unknown)
    ]

    assert wrong == []


def modules_of(place: str) -> list[Module]:
    """The modules of a package and of those within it; there is one at least."""
    found = [module for module in IN_ROOMS if is_within(module.name, {place})]
    assert found, place
    return found


def is_within(name: str, places: set[str]) -> bool:
    """Checks whether a module, by its full name, is one of some packages or in one of them."""
    return any(f"{name}.".startswith(f"{rooms.PACKAGE}.{place}.") for place in places)


def test_packages_have_a_docstring_and_nothing_else() -> None:
    packages = [module for module in IN_ROOMS if module.is_package]

    assert [short(each) for each in packages if not ast.get_docstring(each.tree)] == []
    assert [short(each) for each in packages if len(each.tree.body) > 1] == []


@pytest.mark.parametrize(
    "said",
    [
        re.compile(r"\bcomes? in\b"),
        re.compile(r"\b(goes|go) out\b"),
        re.compile(r"\b(no|not|none|nothing|never|neither|only|alone)\b", re.IGNORECASE),
    ],
    ids=["what comes in", "what goes out", "what it leaves alone"],
)
def test_the_first_paragraph_of_a_package_says(said: re.Pattern[str]) -> None:
    paragraphs = {
        short(module): (ast.get_docstring(module.tree) or "").partition("\n\n")[0]
        for module in IN_ROOMS
        if module.is_package
    }

    # The first line says what the package is for.
    rest = {name: text.partition("\n")[2] for name, text in paragraphs.items()}
    assert [name for name, text in rest.items() if not said.search(text)] == []


def test_no_module_only_passes_names_on() -> None:
    """Only the public entries give names of other modules."""

    def is_own(node: ast.stmt) -> bool:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return not (is_docstring or isinstance(node, ast.Import | ast.ImportFrom))

    modules = [module for module in IN_ROOMS if not module.is_package]

    assert [short(each) for each in modules if not any(map(is_own, each.tree.body))] == []


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    text = rooms.ARCHITECTURE.read_text()

    assert rooms.with_table(text) == text, "run python docs/rooms.py"
