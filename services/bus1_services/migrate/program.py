"""program: a Python program as it is written: its tree, what its names stand for, its constants.

Theory. Nothing is run. A name stands for what is imported under it; a constant is what can be told from the
text: literals, names that are bound once in the module, joined texts.

Invariants. 1. ``Program`` raises SourceError with a line, or has a tree of bounded depth.

Not here: what the names of a library mean (``sources``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from tokenize import detect_encoding

from .reading import SourceError
from .report import Finding, Kind
from .segments import Segments

Function = ast.FunctionDef | ast.AsyncFunctionDef
_CODING = re.compile(r"^([ \t\f]*#.*?coding[:=][ \t]*)[-\w.]+", re.MULTILINE | re.ASCII)
"""The line that names an encoding (PEP 263)."""
LIBRARIES = {
    "dbus_fast": "dbus_fast",
    "dbus_next": "dbus_fast",
    "dasbus": "dasbus",
    "pydbus": "pydbus",
    "sdbus": "sdbus",
    "sdbus_async": "sdbus",
    "sdbus_block": "sdbus",
}
"""Packages by the library whose ways they have."""
_STARS = {
    "dasbus.typing": {
        "Bool",
        "Str",
        "Double",
        "Byte",
        "Int",
        "Int16",
        "UInt16",
        "Int32",
        "UInt32",
        "Int64",
        "UInt64",
        "UnixFD",
        "ObjPath",
        "Variant",
        "VariantType",
        "Structure",
        "get_native",
        "get_variant",
        "get_variant_type",
        "unwrap_variant",
    },
    "dbus_fast.service": {
        "ServiceInterface",
        "dbus_method",
        "dbus_property",
        "dbus_signal",
        "method",
        "signal",
        "PropertyAccess",
    },
}
_STARS["dbus_next.service"] = _STARS["dbus_fast.service"]
"""What is imported by ``*``, as far as services use it."""
PROGRAM_MAX = 512 << 10
"""Bytes of one source."""
DEPTH_MAX = 100
"""Nodes of the tree within each other."""


@dataclass
class Program:
    """One source file."""

    file: str
    segments: Segments
    tree: ast.Module
    parents: dict[ast.AST, ast.AST]
    imports: dict[str, str] = field(default_factory=dict)
    """What is imported, by the name that it has here."""
    stars: list[str] = field(default_factory=list)
    """Modules of which everything is imported."""
    bound: dict[str, list[ast.expr]] = field(default_factory=dict)
    """Values that names of the module are bound to."""
    attributes: dict[str, list[ast.Attribute]] = field(default_factory=dict)
    """All places where an attribute of some name is used."""
    findings: list[Finding] = field(default_factory=list)

    def tell(self, node: ast.AST | None, kind: Kind, what: str, why: str, advice: str) -> None:
        """Note a finding."""
        line = getattr(node, "lineno", 0) if node is not None else 0
        finding = Finding(self.file, line, kind, what, why, advice)
        if finding not in self.findings:
            self.findings.append(finding)

    def dotted(self, node: ast.AST) -> str:
        """What a name, or an attribute of a name, stands for; empty for anything else."""
        match node:
            case ast.Name(id=name):
                return self.imports.get(name, "")
            case ast.Attribute(value=value, attr=attribute):
                before = self.dotted(value)
                return f"{before}.{attribute}" if before else ""
        return ""

    def library(self, node: ast.AST) -> tuple[str, str]:
        """The library that a name comes from and its last part there; empty texts for other names."""
        dotted = self.dotted(node)
        root, _, rest = dotted.partition(".")
        if root in LIBRARIES and rest:
            return LIBRARIES[root], rest.rpartition(".")[2]
        if not dotted and isinstance(node, ast.Name):
            for module in self.stars:
                if node.id in _STARS.get(module, ()):
                    return LIBRARIES[module.partition(".")[0]], node.id
        return "", ""

    def enclosing(self, node: ast.AST) -> Function | ast.Lambda | None:
        """The innermost function that a node is in."""
        above = self.parents.get(node)
        while above is not None and not isinstance(above, Function | ast.Lambda):
            above = self.parents.get(above)
        return above

    def enclosing_class(self, node: ast.AST) -> ast.ClassDef | None:
        """The innermost class that a node is in."""
        above = self.parents.get(node)
        while above is not None and not isinstance(above, ast.ClassDef):
            above = self.parents.get(above)
        return above

    def classes(self) -> Iterator[ast.ClassDef]:
        """Every class at the top of the module, those under ``if`` and ``try`` too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef) and not isinstance(self.parents[node], Function | ast.ClassDef):
                yield node

    # ---- constants -------------------------------------------------------------------------------

    def constant(self, node: ast.AST | None, depth: int = 0) -> str | tuple[str, ...] | None:
        """The text, or texts, that an expression stands for; None if that cannot be told."""
        if depth > 16:
            return None
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return self._texts(elements, depth)
            case ast.JoinedStr(values=values):
                parts = [self.constant(value, depth + 1) for value in values]
                return self._joined(parts)
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self.constant(value, depth + 1)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                before, after = self.constant(left, depth + 1), self.constant(right, depth + 1)
                if isinstance(before, tuple) and isinstance(after, tuple):
                    return before + after
                return self._joined([before, after])
            case ast.Name(id=name):
                values = self.bound.get(name, [])
                return self.constant(values[0], depth + 1) if len(values) == 1 else None
            case ast.Attribute(attr="value", value=ast.Attribute() as member):
                return self.constant(member, depth + 1)
            case ast.Attribute(attr=attribute) if (found := self._attribute(node, attribute)) is not None:
                return self.constant(found, depth + 1)
        return None

    def text(self, node: ast.AST | None) -> str | None:
        """As ``constant``, of one text."""
        value = self.constant(node)
        return value if isinstance(value, str) else None

    def _texts(self, elements: list[ast.expr], depth: int) -> tuple[str, ...] | None:
        texts: list[str] = []
        for element in elements:
            starred = isinstance(element, ast.Starred)
            value = self.constant(element.value if isinstance(element, ast.Starred) else element, depth + 1)
            if value is None or starred is isinstance(value, str):
                return None
            texts += [value] if isinstance(value, str) else value
        return tuple(texts)

    @staticmethod
    def _joined(parts: list[str | tuple[str, ...] | None]) -> str | None:
        return (
            "".join(p for p in parts if isinstance(p, str))
            if all(isinstance(p, str) for p in parts)
            else None
        )

    def _attribute(self, node: ast.AST, attribute: str) -> ast.expr | None:
        """What the body of the class around ``node`` binds an attribute of ``self`` or ``cls`` to."""
        assert isinstance(node, ast.Attribute)
        owner: ast.ClassDef | None = None
        if isinstance(node.value, ast.Name):
            if node.value.id in {"self", "cls"}:
                owner = self.enclosing_class(node)
            else:
                owner = next((c for c in self.classes() if c.name == node.value.id), None)
        found = [
            statement.value
            for statement in (owner.body if owner else [])
            if isinstance(statement, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == attribute for target in statement.targets)
        ]
        return found[0] if len(found) == 1 else None


def read_program(file: str, content: bytes) -> Program:
    """The program in ``content``; SourceError."""
    if len(content) > PROGRAM_MAX:
        raise SourceError(f"{file}: larger than {PROGRAM_MAX} bytes")
    try:
        source = _text(content).replace("\r\n", "\n").replace("\f", " ")
        tree = ast.parse(source)
    except SyntaxError as error:
        raise SourceError(f"{file}:{error.lineno or 0}: {error.msg}") from None
    except (ValueError, LookupError, RecursionError, MemoryError) as error:
        raise SourceError(f"{file}: no Python that can be read: {error}") from None
    if "\r" in source or any(mark in source for mark in "\v\x1c\x1d\x1e\x85\u2028\u2029"):
        raise SourceError(f"{file}: has line ends of another kind")
    program = Program(file, Segments(source), tree, _parents(file, tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=attribute):
                program.attributes.setdefault(attribute, []).append(node)
            case ast.Import(names=names):
                for alias in names:
                    name = alias.asname or alias.name.partition(".")[0]
                    program.imports[name] = alias.name if alias.asname else name
            case ast.ImportFrom(module=module, names=names, level=level):
                for alias in names:
                    if alias.name == "*":
                        program.stars.append(module or "")
                    else:
                        program.imports[alias.asname or alias.name] = (
                            "." * level + f"{module or ''}.{alias.name}".lstrip(".")
                        )
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    program.bound.setdefault(target.id, []).append(statement.value)
    return program


def _text(content: bytes) -> str:
    """The source, in the encoding that its first lines name, as one in UTF-8, which becomes of it."""
    encoding, first_lines = detect_encoding(BytesIO(content).readline)
    if "# coding".encode(encoding) != b"# coding" and encoding != "utf-8-sig":
        raise ValueError(f"{encoding} is no superset of ASCII")
    text = content.decode(encoding)
    if encoding in {"utf-8", "utf-8-sig"}:
        return text
    head = sum(map(len, first_lines))
    return _CODING.sub(r"\1utf-8", text[:head], count=1) + text[head:]


def _parents(file: str, tree: ast.Module) -> dict[ast.AST, ast.AST]:
    parents: dict[ast.AST, ast.AST] = {}
    level: list[ast.AST] = [tree]
    for _ in range(DEPTH_MAX):
        below = []
        for node in level:
            for child in ast.iter_child_nodes(node):
                parents[child] = node
                below.append(child)
        if not below:
            return parents
        level = below
    line = next((vars(node)["lineno"] for node in level if "lineno" in vars(node)), 0)
    raise SourceError(f"{file}:{line}: more than {DEPTH_MAX} expressions within each other")
