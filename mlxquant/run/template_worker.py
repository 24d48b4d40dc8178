"""Renders one chat template in a process of its own, which may be killed at any moment.

Started by `template.render` as a script, by path, with `-I -S`: it must import nothing of mlxquant.
Imports of jinja2 come after `sys.path` is set from the request.

    stdin    one JSON object: paths, template, variables, steps, output_bytes, memory_bytes,
             cpu_seconds
    stdout   one JSON line {"status": "ok" | "failed" | "budget" | "forbidden" | "refused",
             "message", "line"}, then for "ok" the text in UTF-8

The environment mirrors the one in which transformers renders chat templates: Jinja's immutable
sandbox, trimmed blocks, loop controls, the `generation` tag, `tojson` without HTML escapes,
`raise_exception`, `strftime_now`, and a `dict` and `namespace` without underscored names.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from datetime import datetime
from types import FrameType, TracebackType
from typing import Any

TEMPLATE_FILE = "<template>"  # the file name that Jinja gives to code compiled from a string


class BudgetError(BaseException):
    """A limit was reached. Not an Exception, so that nothing on the way up swallows it."""


class RefusalError(Exception):
    """The template itself called `raise_exception`."""


def limit_process(cpu_seconds: int, memory_bytes: int) -> None:
    """Bound CPU time and, on Linux, address space; macOS does not enforce the latter, there the
    parent watches the resident size."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with open("/proc/self/statm") as handle:  # noqa: PTH123 (pathlib costs start-up time)
            pages = int(handle.read().split()[0])
        size = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def step_counter(limit: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that counts lines of template code and calls of anything."""
    left = limit

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise BudgetError(f"it takes more than {limit:,} steps")
        return count if frame.f_code.co_filename == TEMPLATE_FILE else None

    return count


def make_environment() -> Any:
    """The sandboxed Jinja environment."""
    import jinja2
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}…{% endgeneration %}` marks what the model wrote; here it is only text.

        The body is the caller of a call block, as in transformers, because that is a scope of its
        own: a variable set in it is not seen after it.
        """

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_body")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _body(self, caller: Callable[[], str]) -> str:
            return caller()

    class PlainDict:
        """`dict(…)` and `dict.fromkeys(…)` without the type's other attributes."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args, **kwargs)

    class PlainNamespace(jinja2.utils.Namespace):
        """Jinja's namespace, which otherwise lets a template set attributes like `__class__`."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *rest = args
            values = dict(*rest, **kwargs)
            for name in values:
                PlainNamespace.check(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            PlainNamespace.check(name)
            super().__setitem__(name, value)

        @staticmethod
        def check(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")

    def raise_exception(message: Any) -> None:
        raise RefusalError(str(message))

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
        dict=PlainDict(),
        namespace=PlainNamespace,
    )
    return environment


def render(request: dict[str, Any]) -> str:
    """The rendered text.

    Raises: BudgetError, RefusalError, MemoryError, RecursionError, and whatever Jinja raises.
    """
    template = make_environment().from_string(request["template"])
    pieces: list[str] = []
    size, limit = 0, request["output_bytes"]
    sys.settrace(step_counter(request["steps"]))
    try:
        for piece in template.generate(**request["variables"]):
            size += len(piece.encode())
            if size > limit:
                raise BudgetError(f"it expands to more than {limit:,} bytes")
            pieces.append(piece)
    finally:
        sys.settrace(None)
    return "".join(pieces)


def template_line(trace: TracebackType | None) -> int | None:
    """The line of the template that an exception came through last."""
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TEMPLATE_FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def attempt(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Render; every outcome becomes a reply."""
    import jinja2

    try:
        return {"status": "ok"}, render(request).encode()
    except BudgetError as problem:
        status, message, line = "budget", str(problem), None
    except RefusalError as problem:
        status, message, line = "refused", str(problem), None
    except MemoryError:
        # What the exception's frames hold is what there was too much of.
        status, message, line = "budget", "it takes too much memory", None
    except jinja2.exceptions.SecurityError as problem:
        status, message, line = "forbidden", str(problem), template_line(problem.__traceback__)
    except jinja2.TemplateSyntaxError as problem:
        status, message, line = "failed", problem.message or "syntax error", problem.lineno
    except Exception as problem:
        message = str(problem) or type(problem).__name__
        status, line = "failed", template_line(problem.__traceback__)
    return {"status": status, "message": message[:500], "line": line}, b""


def main() -> None:
    """Read the request, render, reply."""
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:0] = request["paths"]
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401 (imported before memory is bounded)

    limit_process(request["cpu_seconds"], request["memory_bytes"])
    reply, text = attempt(request)
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n" + text)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
