"""Write docs/errors.md: every error code that the packages can raise, found from their source.

    python tools/error_codes.py            writes it
    python tools/error_codes.py --check    exits with 1 when the page says something else than the source

Found are the calls of ZslError's subclasses. A code that is not written in the call itself is looked for where it comes
from: a constant, or what callers give for a parameter. A code that cannot be found is an error, so that none is missed.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("runtime/zsl_runtime", "export/zsl_export", "train/zsl_train")
HOME = "runtime/zsl_runtime/errors.py"
BASE = "ZslError"
CODE = re.compile(r"E-[A-Z0-9-]+")
# Printed by `run_command` for what is no ZslError: (what it stands for, the constant with the exit code).
PRINTED = {"E-BUG": ("any other exception", "EXIT_BUG"), "E-USAGE": ("click's errors", "EXIT_USAGE")}
WIDTH = 72  # characters of a message that the table shows
HEADER = """# Error codes

Every error is one line on stderr: `error: CODE: what was given, what was expected, what to do`. The code is stable, the
words are not (docs/versioning.md). From Python it is `ZslError.code`; the class is one of `zsl_runtime.errors`, and it
alone decides the exit code of a command. A code of exit 6 concerns one input: the others are done.

This page is written by `tools/error_codes.py` from the source; a test fails when they differ. "…" stands for what
differs from case to case, and of a code with several messages the first one is shown.

"""


class Site(NamedTuple):
    """One place that raises a code.

    Attributes:
        code: such as E-BUNDLE-HASH.
        kind: name of the class, or what the code is printed for.
        file: in which the code is written, below the root.
        line: of the call.
        passed: the code comes from a caller, so that the message is of another place.
        message: the first words.

    """

    code: str
    kind: str
    file: str
    line: int
    passed: bool
    message: str


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        name: its path below the root.
        module: the name that it is imported by.
        tree: its syntax tree.

    """

    name: str
    module: str
    tree: ast.Module

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The node around each node."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def functions_around(self, node: ast.AST) -> Iterator[ast.FunctionDef]:
        """From the innermost outwards."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, ast.FunctionDef):
                yield node


class Found(NamedTuple):
    """A code, and the file that it is written in."""

    code: str
    file: str


class Codes:
    """The codes of all packages."""

    def __init__(self, root: Path = ROOT) -> None:
        paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
        self.sources = [_source(root, path) for path in paths]
        self.modules = {source.module: source for source in self.sources}
        home = next(source for source in self.sources if source.name == HOME)
        self.constants = _constants(home.tree.body)
        self.exits = self._exits()
        self.sites = sorted([*self._raised(), *self._printed(home)], key=self._order)

    def exit_code(self, kind: str) -> int:
        """Of a command that ends with this class, or with what a printed code stands for."""
        return self.exits[kind]

    def _exits(self) -> dict[str, int]:
        """Exit codes by class; a class without its own has that of its base."""
        found = {BASE: self._number(ast.Name("EXIT_BUG"))}
        found |= {what: self._number(ast.Name(constant)) for what, constant in PRINTED.values()}
        for source in self.sources:
            for node in ast.walk(source.tree):
                bases = [_last(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
                if not isinstance(node, ast.ClassDef) or not set(bases) & set(found):
                    continue
                own = _constants(node.body).get("exit_code")
                inherited = found[next(one for one in bases if one in found)]
                found[node.name] = inherited if own is None else self._number(own)
        return found

    def _number(self, node: ast.expr) -> int:
        if isinstance(node, ast.Name):
            node = self.constants[node.id]
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return node.value

    def _order(self, site: Site) -> tuple[str, str, bool, int, int]:
        """By code, and of one code those first whose message stands beside it."""
        place = [source.name for source in self.sources].index(site.file)
        return site.code, site.kind, site.passed, place, site.line

    def _raised(self) -> Iterator[Site]:
        for source in self.sources:
            for node in ast.walk(source.tree):
                # click has a UsageError, too, which is written with its module
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id not in self.exits:
                    continue
                given = _argument(node, 0, "code")
                if given is None or (isinstance(given, ast.Attribute) and given.attr == "code"):
                    continue  # passed on from an error that was raised before
                message = _words(_argument(node, 1, "message"))
                passed = isinstance(given, ast.Name) and any(
                    given.id in _parameters(function) for function in source.functions_around(given)
                )
                for code, file in self._codes(source, given):
                    yield Site(code, node.func.id, file, node.lineno, passed, message)

    def _printed(self, home: Source) -> Iterator[Site]:
        """Codes of lines that `run_command` writes itself."""
        for node in ast.walk(home.tree):
            for code, text in re.findall(rf"^error: ({CODE.pattern}): ?(.*)", _text(node)):
                yield Site(code, PRINTED[code][0], home.name, node.lineno, passed=not text, message=_short(text or "…"))

    def _codes(self, source: Source, node: ast.expr) -> Iterator[Found]:
        """What a code can be where it is given as `node`."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Found(node.value, source.name)
        elif isinstance(node, ast.IfExp):
            yield from self._codes(source, node.body)
            yield from self._codes(source, node.orelse)
        elif isinstance(node, ast.Name):
            yield from self._named(source, node)
        else:
            raise SystemExit(f"{source.name}, line {node.lineno}: no code can be read from {ast.unparse(node)}")

    def _named(self, source: Source, name: ast.Name) -> Iterator[Found]:
        for function in source.functions_around(name):
            local = _constants(list(ast.walk(function))).get(name.id)
            if local is not None:
                yield from self._codes(source, local)
                return
            if name.id in _parameters(function):
                yield from self._given(function, name.id)
                return
        own = _constants(source.tree.body).get(name.id)
        if own is not None:
            yield from self._codes(source, own)
            return
        for node in ast.walk(source.tree):
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                if (alias.asname or alias.name) == name.id:
                    yield from self._named(self.modules[node.module or ""], ast.Name(alias.name))
                    return
        place = getattr(name, "lineno", "of an import")
        raise SystemExit(f"{source.name}, line {place}: nothing says what {name.id} is")

    def _given(self, function: ast.FunctionDef, parameter: str) -> Iterator[Found]:
        """What all callers of a function give for a parameter."""
        place = _parameters(function)[parameter]
        for source in self.sources:
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call) and _last(node.func) == function.name:
                    given = _argument(node, place, parameter)
                    if given is None:
                        raise SystemExit(f"{source.name}, line {node.lineno}: {parameter} is not given")
                    yield from self._codes(source, given)


def _source(root: Path, path: Path) -> Source:
    module = path.relative_to(root).with_suffix("").parts[1:]
    name = ".".join(module[:-1] if module[-1] == "__init__" else module)
    return Source(path.relative_to(root).as_posix(), name, ast.parse(path.read_text(encoding="utf-8")))


def _last(node: ast.expr) -> str:
    """The last word of a name with dots."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _constants(nodes: list[ast.stmt] | list[ast.AST]) -> dict[str, ast.expr]:
    """Names and what is assigned to them, several in one line included."""
    found: dict[str, ast.expr] = {}
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name):
                found[target.id] = node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
                found |= {one.id: value for one, value in pairs if isinstance(one, ast.Name)}
    return found


def _parameters(function: ast.FunctionDef) -> dict[str, int]:
    """Parameters and their place in a call; -1 for those that are given by name only."""
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    return {**{name: place for place, name in enumerate(names)}, **{one.arg: -1 for one in function.args.kwonlyargs}}


def _argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    """What a call gives for a parameter; None for nothing, or for a list that is unpacked."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if not 0 <= place < len(call.args) or any(isinstance(one, ast.Starred) for one in call.args[: place + 1]):
        return None
    return call.args[place]


def _words(node: ast.expr | None) -> str:
    """The first words of a message, "…" where it depends on the case."""
    return _short(_text(node))


def _text(node: ast.AST | None) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case _:
            return "…"


def _short(text: str) -> str:
    """At most WIDTH characters, cut between words."""
    text = re.sub(r"…(?:\s*…)+", "…", " ".join(text.split()))
    if len(text) <= WIDTH:
        return text
    return text[:WIDTH].rsplit(" ", 1)[0].rstrip(" ,;:(…") + " …"


def page(codes: Codes) -> str:
    """The content of docs/errors.md."""
    lines = []
    for code, kind in sorted({(site.code, site.kind) for site in codes.sites}):
        sites = [site for site in codes.sites if (site.code, site.kind) == (code, kind)]
        files = ", ".join(f"`{name.partition('/')[2]}`" for name in dict.fromkeys(site.file for site in sites))
        message = next((site.message for site in sites if site.message.strip("… ")), "…").replace("|", "\\|")
        lines.append(f"| `{code}` | {kind} | {codes.exit_code(kind)} | {files} | {message} |\n")
    return f"{HEADER}| code | class | exit | named in | message |\n|---|---|---|---|---|\n{''.join(lines)}"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    wanted = page(Codes())
    if arguments == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != wanted:
            print(f"{PAGE.name} is not what the source says; run: python tools/error_codes.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
