"""Measures the rooms of `beam_upscale`, and writes the table in `architecture.md`.

`python docs/rooms.py` writes the table again; a test compares the text with what it would write.
Modules are read as text and never imported.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "beam_upscale"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- table of the rooms: begin -->\n", "<!-- table of the rooms: end -->\n"

# Generated from the protocol files.
_STUBS = f"{PACKAGE}.grpc_api.stubs"


@dataclass(frozen=True)
class Module:
    """One file of the package.

    Attributes:
        name: its dotted name; that of the package for an `__init__.py`.
        path: its file.
        is_package: whether it is an `__init__.py`.
    """

    name: str
    path: Path
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.path.read_bytes())

    @cached_property
    def lines(self) -> int:
        """The number of lines of the file."""
        return len(self.path.read_text().splitlines())

    @property
    def package(self) -> str:
        """The dotted name of the package that the file stands in."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @property
    def room(self) -> str:
        """The part of the name behind `beam_upscale`: the room, or the module's own name."""
        return self.name.partition(".")[2].partition(".")[0]

    def imports(self, at_once: bool = False) -> Iterator[str]:
        """Yields the full dotted names that the module imports.

        Args:
            at_once: only imports that happen when the module is imported, not those in functions
                and those for type checkers.
        """
        for node in _at_once(self.tree) if at_once else ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}: imports are absolute here"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def longest_function(self) -> tuple[int, str]:
        """Returns the lines and the name of the longest function; (0, "") if there is none."""
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        return max(
            (
                ((node.end_lineno or 0) - node.lineno + 1, node.name)
                for node in ast.walk(self.tree)
                if isinstance(node, functions)
            ),
            default=(0, ""),
        )


def _at_once(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _at_once(node)


def modules() -> dict[str, Module]:
    """Returns the modules of the package by their dotted names, but for the generated ones."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        is_package = path.name == "__init__.py"
        parts = path.relative_to(ROOT).with_suffix("").parts[: -1 if is_package else None]
        name = ".".join(parts)
        if not f"{name}.".startswith(f"{_STUBS}."):
            found[name] = Module(name, path, is_package)
    return found


def imported_modules(
    module: Module, all_modules: Mapping[str, Module], at_once: bool = False
) -> set[str]:
    """Returns the names of the modules of the package that a module imports.

    The package itself, whose names are imported on first use, does not count.
    """
    found = set()
    for name in module.imports(at_once):
        for known in (name, name.rpartition(".")[0]):
            if known in all_modules and known not in (PACKAGE, module.name):
                found.add(known)
                break
    return found


def foreign_libraries(module: Module, at_once: bool = False) -> set[str]:
    """Returns the third-party packages that a module imports."""
    first = {name.partition(".")[0] for name in module.imports(at_once)}
    return first - set(sys.stdlib_module_names) - {PACKAGE}


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Returns the circles of a graph: each its nodes that lead to one another, sorted."""
    reached = {node: _reached(graph, node) for node in graph}
    found = {
        tuple(sorted(other for other in nodes if node in reached.get(other, ())))
        for node, nodes in reached.items()
        if node in nodes
    }
    return sorted(map(list, found))


def _reached(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Returns the nodes that a path of at least one edge leads to from `start`."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found


def table() -> str:
    """Returns the table of all packages in Markdown."""
    all_modules = modules()
    packages: dict[str, list[Module]] = defaultdict(list)
    for module in all_modules.values():
        packages[module.package].append(module)
    lines = [
        "| package | modules | lines | longest file | longest function | imports from |",
        "| --- | ---: | ---: | --- | --- | --- |",
    ]
    for package, members in sorted(packages.items()):
        longest = max(members, key=lambda module: module.lines)
        function = max(module.longest_function() for module in members)
        others = {
            all_modules[name].package if all_modules[name].package != PACKAGE else name
            for module in members
            for name in imported_modules(module, all_modules)
        } - {package}
        cells = (
            f"`{_short(package)}`" if package != PACKAGE else "`beam_upscale`",
            str(sum(not module.is_package for module in members)),
            str(sum(module.lines for module in members)),
            f"`{longest.path.name}` {longest.lines}" if longest.lines else "",
            f"`{function[1]}` {function[0]}" if function[0] else "",
            ", ".join(sorted(map(_short, others))),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")


def with_table(text: str) -> str:
    """Returns the text of `architecture.md` with the table of now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    ARCHITECTURE.write_text(with_table(ARCHITECTURE.read_text()))
