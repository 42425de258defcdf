"""rewriting: the members of an interface class, where they stand, in the native way.

Theory. The head of a function is replaced, its body stays. Members that the program itself uses keep their
functions; natively they are declared at the end of the class.

Not here: which (``planning``), what bodies emit (``emitting``), what else they use (``translating``).
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass, replace

from ..members import camel_case
from .aids import Aids
from .borrowing import Borrowed
from .declared import Part
from .description import Argument, Method, Property, Signal
from .emitting import Emitting, wrapped
from .hinting import Hints, notes_of
from .layout import Group, Item, Pair, lay_out, literal
from .planning import Plan, returns_arguments
from .program import Function, Program
from .report import Kind
from .writing import documented


@dataclass
class Rewriting:
    """One class of a program."""

    program: Program
    plan: Plan
    borrowed: Borrowed
    aids: Aids

    def __post_init__(self) -> None:
        self.segments = self.program.segments
        self.hints = Hints(self.borrowed)
        self._emitting = Emitting(self.program, self.plan, self.borrowed, self.aids)
        self._below: list[str] = []
        """Members for the end of the class."""
        self._apart: dict[str, list[str]] = {}
        """Members of the interfaces that are declared apart."""

    def run(self) -> None:
        """Change the class."""
        for part in self.plan.declared.parts:
            match part.member:
                case Signal():
                    self._signal(part)
                case Method():
                    self._method(part)
                case Property():
                    self._property(part)
        members = {f for part in self.plan.declared.parts for f in (part.function, part.setter)}
        for function in self.plan.declared.node.body:
            if isinstance(function, Function) and function not in members:
                # a property that is lost may have a setter, which stays, too
                self._plain(function, is_property=self._is_property(function))
        self._emitting.run()
        if self._apart:
            self._put_apart()
        if self._below:
            body = self.plan.declared.node.body
            end, indent = self.segments.lines_of(self.plan.declared.node)[1], self.segments.indent_of(body[0])
            for text in self._below:
                self.segments.replace(end, end, f"\n{indent}{self._indented(text.rstrip(), body[0])}\n")

    def _put_apart(self) -> None:
        """Interfaces before the class that has several."""
        node = self.plan.declared.node
        text = ""
        for interface, members in self._apart.items():
            last = interface.rpartition(".")[2]
            self.plan.bases.append(self.borrowed.free(last[0].upper() + last[1:]))
            name = lay_out(literal(interface), 0)
            head = f"class {self.plan.bases[-1]}({self.borrowed('Interface')}, name={name}):"
            text += "\n".join([head, *(f"{member}\n" for member in members), "", ""])
        start, indent = self.segments.head(node)[0], self.segments.indent_of(node)
        self.segments.replace(start, start, textwrap.indent(text, indent).lstrip() + indent)

    def _marked(self, kind: str, part: Part, attribute: str, head: str) -> str:
        """What stands before the head of a member: its decorator, unless it is declared apart."""
        decorator = self._decorator(kind, part, attribute)
        if not self.plan.declared.is_several:
            return f"{decorator}\n"
        self._apart.setdefault(part.interface, []).append(f"{decorator}\n{head} ...")
        return ""

    # ---- members ---------------------------------------------------------------------------------

    def _method(self, part: Part) -> None:
        assert part.function is not None and isinstance(part.member, Method)
        function, attribute = part.function, self.plan.attributes[part.python]
        waits = self._waits(function)
        inputs = self._inputs(part)
        if part.python in self.plan.kept:
            call = f"self.{part.python}({', '.join(name for name, _ in inputs)})"
            body = f"        return {'await ' * waits}{call}\n"
            head = self._head(attribute, "self", inputs, self.hints.results(part.member.outputs), waits)
            self._below.append(f"{self._marked('method', part, attribute, head)}{head}\n{body}")
            self._plain(function, is_property=False)
            return
        result = self.hints.results(part.member.outputs)
        head = self._head(attribute, function.args.args[0].arg, inputs, result, waits, part.extra)
        self._put_head(part, "method", attribute, head)
        self._convert(
            part, function, "".join(o.signature for o in part.member.outputs), len(part.member.outputs)
        )

    def _inputs(self, part: Part) -> list[tuple[str, Argument]]:
        assert part.function is not None and isinstance(part.member, Method)
        names = [arg.arg for arg in part.function.args.args[1:] if arg.arg not in part.extra]
        return list(zip(names, part.member.inputs, strict=True))

    def _property(self, part: Part) -> None:
        assert isinstance(part.member, Property)
        attribute, function = self.plan.attributes[part.python], part.function
        hint = self.hints.of(part.member.signature)
        if function is None or part.python in self.plan.kept:
            head = self._head(attribute, "self", [], hint, False)
            mark = self._marked("prop", part, attribute, head)
            self._below.append(f"{mark}{head}\n        return self.{part.python}\n")
            if function is not None:
                self._plain(function, is_property=True)
        else:
            own, waits = function.args.args[0].arg, self._waits(function)
            self._put_head(part, "prop", attribute, self._head(attribute, own, [], hint, waits))
            self._convert(part, function, part.member.signature, 1)
        if self.plan.declared.is_several and part.member.writable:
            arguments = f"self, value: {lay_out(hint, 0)}"
            self._apart[part.interface].append(
                f"    @{attribute}.setter\n"
                f"    def _assign_{attribute}({arguments}) -> {self.borrowed('Any')}:\n"
                f"        return self._set_{attribute}(value)"
            )
        if part.member.writable and not self.plan.declared.keeps_names:
            self._tell_of_set(part)
        if part.setter is not None:
            self._setter(part, part.setter)
        elif part.member.writable:
            head = self._head(
                f"_set_{attribute}",
                "self",
                [("value", Argument("value", part.member.signature))],
                "None",
                False,
            )
            value = f"{self.borrowed('bare')}(value)" if part.shape == "bare" else "value"
            mark = "" if self.plan.declared.is_several else f"    @{attribute}.setter\n"
            self._below.append(f"{mark}{head}\n        self.{part.python} = {value}\n")

    def _tell_of_set(self, part: Part) -> None:
        assert isinstance(part.member, Property)
        before = "its setter told" if part.python in self.plan.tells_itself else "nobody told"
        if part.member.emits in {"true", "invalidates"}:
            self.program.tell(
                part.setter or self.plan.declared.node,
                Kind.CHANGED,
                part.member.name,
                f"{before} that it was set; natively each Set tells it, when the setter is done",
                'nothing; or emits="false", if clients must not hear of it',
            )

    def _setter(self, part: Part, setter: Function) -> None:
        assert isinstance(part.member, Property)
        attribute, name = self.plan.attributes[part.python], self.plan.setter(part)
        value = setter.args.args[1].arg
        head = self._head(
            name,
            setter.args.args[0].arg,
            [(value, Argument(value, part.member.signature))],
            "None",
            self._waits(setter),
        )
        start, end = self.segments.head(setter)
        is_private = not part.member.writable
        is_below = part.function is None or part.python in self.plan.kept
        if is_below and not is_private and not self.plan.declared.is_several:
            # the member is declared below, and its setter may not stand before it
            self._below.append(f"    {attribute}.setter({name})\n")
        is_bare = is_private or is_below or self.plan.declared.is_several
        mark = "" if is_bare else f"    @{attribute}.setter\n"
        self.segments.replace(start, end, self._indented(mark + head, setter))
        self._convert(part, setter, "", 0)
        if is_private:
            hint = lay_out(self.hints.of(part.member.signature), 0)
            self._below.append(
                f"    async def _assign_{attribute}(self, value: {hint}) -> None:\n"
                f"        {'await ' * self._waits(setter)}self.{name}(value)\n"
                f"        await self.{attribute}.changed()\n"
            )

    def _signal(self, part: Part) -> None:
        assert isinstance(part.member, Signal)
        attribute, function = self.plan.attributes[part.python], part.function
        names = [arg.arg for arg in function.args.args[1:]] if function is not None else []
        given = part.member.arguments
        if len(names) != len(given):
            names = [
                argument.name if argument.name.isidentifier() else f"argument_{n + 1}"
                for n, argument in enumerate(given)
            ]
        pairs = [
            (name, argument if argument.name else replace(argument, name=name))
            for name, argument in zip(names, given, strict=True)
        ]
        head = self._head(attribute, "self", pairs, "None", False)
        mark = self._marked("signal", part, attribute, head)
        text = f"{mark}{head} ...\n"
        if self.plan.declared.is_several:
            for statement in part.statements:
                self.segments.replace(*self.segments.lines_of(statement), "")
        elif function is None:
            if part.statements:
                self.segments.replace_node(
                    part.statements[0], self._indented(text.rstrip(), part.statements[0])
                )
            else:
                self._below.append(text)
        elif returns_arguments(self.plan, part):
            self._emitter(part, function, text)
        else:
            start, end = self.segments.head(function)[0], self.segments.span(function)[1]
            self.segments.replace(start, end, self._indented(text.rstrip("\n"), function))

    def _emitter(self, part: Part, function: Function, declaration: str) -> None:
        """A function that gave the arguments of a signal emits it."""
        assert isinstance(part.member, Signal)
        attribute, own = self.plan.attributes[part.python], function.args.args[0].arg
        start, end = self.segments.head(function)
        arguments = self.segments.source[self.segments.at(function.lineno, function.col_offset) : end]
        inside = arguments[arguments.index("(") + 1 : arguments.rindex(")")]
        if function.returns is not None:
            upto = self.segments.span(function.returns)[0] - self.segments.at(
                function.lineno, function.col_offset
            )
            inside = arguments[arguments.index("(") + 1 : arguments.rindex(")", 0, upto)]
        name = self.plan.emitter(part)
        text = f"{declaration}\n    async def {name}({inside}) -> None:"
        self.segments.replace(start, end, self._indented(text, function))
        many = len(part.member.arguments)
        emit = f"await {own}.{attribute}("
        returns = [n for n in _own_nodes(function) if isinstance(n, ast.Return)]
        for node in returns:
            if node.value is None or not many:
                self.segments.replace_node(node, f"return {emit})")
            else:
                before, after = wrapped(
                    self.borrowed, part, "".join(a.signature for a in part.member.arguments), many
                )
                self.segments.surround(node.value, f"{emit}{'*' * (many > 1)}{before}", f"{after})")
        last = function.body[-1]
        if not many and not isinstance(last, ast.Return):
            is_trivial = isinstance(last, ast.Pass) or (
                isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant)
            )
            if is_trivial and not (len(function.body) == 1 and ast.get_docstring(function)):
                self.segments.replace_node(last, f"{emit})")
            else:
                at = self.segments.span(last)[1]
                self.segments.replace(at, at, f"\n{self.segments.indent_of(function)}    {emit})")

    def _plain(self, function: Function, *, is_property: bool) -> None:
        """A function that stays: without the decorators of its library."""
        for decorator in function.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            library, _ = self.program.library(called)
            if library and is_property:
                self.segments.replace_node(decorator, "property")
            elif library:
                start, end = self.segments.span(decorator)
                following = self.segments.source.index("\n", end) + 1
                first = self.segments.source.rindex("\n", 0, start) + 1
                self.segments.replace(first, following, "")
        if function in self.plan.waits:
            if not any(site.target is function for site in self.plan.sites):
                self.program.tell(
                    function,
                    Kind.CHANGED,
                    f"{function.name}()",
                    "it emits, and is async now; nothing here calls it",
                    "await it where other files call it",
                )
            at = self.segments.span(function)[0]
            self.segments.replace(at, at, "async ")

    def _waits(self, function: Function) -> bool:
        """It is async already, or becomes so."""
        return isinstance(function, ast.AsyncFunctionDef) or function in self.plan.waits

    def _is_property(self, function: Function) -> bool:
        """The library makes a property of it."""
        called = (d.func if isinstance(d, ast.Call) else d for d in function.decorator_list)
        return any(library and "property" in name for library, name in map(self.program.library, called))

    # ---- heads -----------------------------------------------------------------------------------

    def _head(
        self,
        name: str,
        own: str,
        inputs: list[tuple[str, Argument]],
        result: Item,
        is_async: bool,
        extra: dict[str, str] | None = None,
    ) -> str:
        parameters: list[Item] = [own]
        parameters += [
            Pair(f"{python}: ", self.hints.argument(argument, python)) for python, argument in inputs
        ]
        for python in list(extra or ())[:1]:
            parameters.append(f"{python}: {self.borrowed('Caller')} = {self.borrowed('NOBODY')}")
        start = "async def" if is_async else "def"
        return lay_out(Group(f"{start} {name}", tuple(parameters), "()", Pair(" -> ", result)), 1, after=":")

    def _decorator(self, kind: str, part: Part, attribute: str) -> str:
        member, options = part.member, list[Item]()
        if camel_case(attribute) != member.name:
            options.append(Pair("name=", literal(member.name)))
        if isinstance(member, Method) and member.no_reply:
            options.append("no_reply=True")
        if isinstance(member, Property):
            options += [f'emits="{member.emits}"'] if member.emits != "true" else []
            options += ["readable=False"] if not member.readable else []
        if member.deprecated:
            options.append("deprecated=True")
        _, notes = documented(member.annotations)
        if notes:
            options.append(Pair("annotations=", notes_of(notes)))
        local = self.borrowed(kind)
        return lay_out(Group(f"@{local}", tuple(options)) if options else f"@{local}", 1)

    def _put_head(self, part: Part, kind: str, attribute: str, head: str) -> None:
        """Replace a function's head; decorators of others stay below the new one."""
        function = part.function
        assert function is not None
        others = [
            f"    @{self.segments.original(decorator)}"
            for decorator in function.decorator_list
            if not self._is_librarys(decorator)
        ]
        text = self._marked(kind, part, attribute, head) + "\n".join([*others, head])
        self.segments.replace(*self.segments.head(function), self._indented(text, function))

    def _is_librarys(self, decorator: ast.expr) -> bool:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Name) and called.id == "property":
            return True
        library, _ = self.program.library(called)
        return bool(library)

    def _indented(self, text: str, function: ast.stmt) -> str:
        """Text for a place that is indented already, in the way of the source."""
        indent = self.segments.indent_of(function)
        unit = indent.removeprefix(self.segments.indent_of(self.plan.declared.node)) or "    "
        lines = []
        for line in text.split("\n"):
            inside = line.lstrip(" ")
            deeper = (len(line) - len(inside)) // 4 - 1
            lines.append(indent + unit * deeper + inside if inside else "")
        return "\n".join(lines).lstrip()

    # ---- bodies ----------------------------------------------------------------------------------

    def _convert(self, part: Part, function: Function, signature: str, many: int) -> None:
        """Arguments and results of a body that knows variants in another way."""
        before, after = wrapped(self.borrowed, part, signature, many)
        if before:
            for node in _own_nodes(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    self.segments.surround(node.value, before, after)
        taken = self._inputs(part) if isinstance(part.member, Method) else []
        if function is part.setter and isinstance(part.member, Property):
            name = function.args.args[1].arg
            taken = [(name, Argument(name, part.member.signature))]
        lines = []
        for name, argument in taken:
            if "v" in argument.signature and part.shape != "values":
                lines.append(f"{name} = {self.borrowed(part.shape)}({name})")
            elif argument.signature == "h":
                lines.append(f"{name} = {name}.take()")
            elif "h" in argument.signature:
                self.program.tell(
                    function,
                    Kind.LOST,
                    f"{part.member.name}({name})",
                    "descriptors within other values are owners natively, not numbers",
                    "take() those that are kept",
                )
        if lines:
            self._put_first(function, lines)

    def _put_first(self, function: Function, lines: list[str]) -> None:
        """Statements before those of a body, behind its docstring."""
        first = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
        at = self.segments.span(first[0] if first else function.body[0])[0 if first else 1]
        between = f"\n{self.segments.indent_of((first or function.body)[0])}"
        if self.segments.source.rfind("\n", 0, at) < self.segments.span(function)[0]:
            between = "; "
        text = between.join(lines)
        self.segments.replace(at, at, f"{text}{between}" if first else f"{between}{text}")


def _own_nodes(function: Function) -> list[ast.AST]:
    """What is in the body of a function, and not in another one within it."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        found.append(node)
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))
    return found
