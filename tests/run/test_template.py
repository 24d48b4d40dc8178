"""Chat templates render as in transformers; hostile ones end, in bounded time and memory."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import CALLS, SYSTEM, TALK, TOOLS

from mlxquant.errors import ModelError, TemplateError
from mlxquant.run import template
from mlxquant.run.template import Budget, apply_chat_template, encode_chat, render

TEMPLATES = sorted((Path(__file__).parent / "templates").glob("*.jinja"))

DOCUMENTS = [{"title": "One", "text": "The first\nof several documents."}]


@pytest.fixture
def tokenizer(pair: tuple[Any, Any]) -> Any:
    """A tokenizer whose template a test may replace."""
    wrapper = copy.copy(pair[1])
    wrapper._tokenizer = copy.copy(wrapper._tokenizer)
    return wrapper


def in_transformers(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    options = {"add_generation_prompt": True, "enable_thinking": False, **options}
    text = tokenizer._tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return str(text)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
@pytest.mark.parametrize("given", ["talk", "whole", "system", "tools"])
def test_real_templates_render_as_in_transformers(tokenizer: Any, file: Path, given: str) -> None:
    tokenizer.chat_template = file.read_text()
    messages = {"system": [SYSTEM, *TALK], "tools": CALLS}.get(given, TALK)
    options: dict[str, Any] = {"add_generation_prompt": given != "whole"}
    if given == "tools":
        options |= {"tools": TOOLS, "documents": DOCUMENTS}
    try:
        expected = in_transformers(tokenizer, messages, **options)
    except Exception as refused:
        with pytest.raises(TemplateError) as problem:
            apply_chat_template(tokenizer, messages, **options)
        assert type(refused).__module__.startswith("jinja2")
        assert str(refused) in str(problem.value)
    else:
        assert apply_chat_template(tokenizer, messages, **options) == expected
        assert expected


def test_the_templates_rendered_are_more_than_their_refusals(tokenizer: Any) -> None:
    rendered = 0
    for file in TEMPLATES:
        tokenizer.chat_template = file.read_text()
        rendered += bool(apply_chat_template(tokenizer, TALK))
    assert rendered == len(TEMPLATES) == 7


def test_token_ids_are_those_of_mlx_lm(pair: tuple[Any, Any]) -> None:
    expected = pair[1].apply_chat_template(TALK, add_generation_prompt=True)
    assert encode_chat(pair[1], TALK) == expected


def test_thinking_can_be_switched_off(tokenizer: Any) -> None:
    tokenizer.chat_template = (Path(__file__).parent / "templates/qwen-3.jinja").read_text()
    for thinking in (True, False):
        expected = in_transformers(tokenizer, TALK, enable_thinking=thinking)
        assert apply_chat_template(tokenizer, TALK, enable_thinking=thinking) == expected
    assert "<think>\n\n</think>" in expected


def test_named_templates_are_chosen_as_in_transformers(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": "plain {{ bos_token }}", "tool_use": "tools"}
    assert apply_chat_template(tokenizer, TALK) == "plain <|begin_of_text|>"
    assert apply_chat_template(tokenizer, TALK, tools=TOOLS) == "tools"
    tokenizer.chat_template = {"rag": "x"}
    with pytest.raises(ModelError, match="named rag and none named 'default'"):
        apply_chat_template(tokenizer, TALK)


def test_no_template_and_no_message_are_said(tokenizer: Any) -> None:
    with pytest.raises(TemplateError, match="no message"):
        apply_chat_template(tokenizer, [])
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template; --raw"):
        apply_chat_template(tokenizer, TALK)


def test_what_is_not_json_is_named_not_handed_over() -> None:
    assert render("{{ x }} {{ y[0] }}", {"x": Path("/"), "y": (b"z",)}) == "<PosixPath> <bytes>"


def test_a_refusal_is_the_templates_own_words() -> None:
    with pytest.raises(TemplateError) as problem:
        render("{{ raise_exception('Roles must\nalternate') }}", {})
    assert str(problem.value) == (
        "chat template: it refuses this conversation: Roles must\\nalternate"
    )


def test_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match=r"^chat template line 3: 'x' is undefined; --raw"):
        render("a\n\n{{ x.y.z }}", {})
    with pytest.raises(TemplateError, match="^chat template line 2: "):
        render("a\n{% for %}", {})


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ (''|attr('__class__')).x }}",
    "{{ ''['__class__'].mro() }}",
    "{{ cycler.__init__.__globals__.os.popen('COMMAND').read() }}",
    "{{ lipsum.__globals__['os'].popen('COMMAND').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').popen('COMMAND').read() }}",
    "{{ raise_exception.__globals__.sys.modules.os.system('COMMAND') }}",
    "{{ strftime_now.__globals__.sys.modules.os.system('COMMAND') }}",
    "{{ dict.__class__.__mro__ }}",
    "{{ namespace(__class__=1) }}",
    "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
    "{{ '{0.__class__.__mro__}'.format('x') }}",
    "{{ ('{0.__class__}'|format)('x') }}{{ '{0.__class__.x}'.format_map({'0': ''}) }}",
    "{{ messages.append(1) }}",
    "{% set d = dict(a=1) %}{{ d.update({'b': 2}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ ().__class__.__bases__[0].__subclasses__()[100]('COMMAND', shell=True) }}",
    "{{ url_for.__globals__ }}",
    "{{ (messages|map(attribute='__class__')|list)[0].x }}",
    "{{ ([1]|groupby('__class__'))[0].grouper.mro() }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_of_python_is_reached(source: str, tmp_path: Path) -> None:
    """CVE-2024-34359 and its relatives."""
    trace = tmp_path / "escaped"
    with pytest.raises(TemplateError, match=r"^chat template"):
        render(source.replace("COMMAND", f"touch {trace}"), {"messages": TALK})
    assert not trace.exists()


#: what each is stopped by: its own error, its steps, bytes, memory or time
BOMBS = {
    "range": ("{% for i in range(10**12) %}x{% endfor %}", "Range too big"),
    "range-list": ("{{ range(10**9)|list }}", "Range too big"),
    "nested-loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "steps",
    ),
    "loop-output": (
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "expands to more than",
    ),
    "one-big-output": ("{{ 'x' * (5 * 10**6) }}", "expands to more than"),
    "multiply": ("{{ 'x' * 10**10 }}", "memory"),
    "multiply-later": ("{% set x = 'x' * n %}", "memory"),
    "list": ("{{ [0] * 10**10 }}", "memory"),
    "list-later": ("{{ ([0] * n)|length }}", "memory"),
    "doubling": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}",
        "memory",
    ),
    "doubling-plus": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}",
        "memory",
    ),
    "blocks": (
        "{% set a %}{{ 'x' * 10**6 }}{% endset %}"
        "{% set b %}{% for i in range(9999) %}{{ a }}{% endfor %}{% endset %}",
        "memory",
    ),
    "power": ("{{ 9**(9**9) }}", "seconds"),
    "power-later": ("{{ (n**n)|string }}", "seconds|memory"),
    "digits": ("{{ 10**100000 }}", "digits"),
    "percent": ("{{ '%1000000000d' % n }}", "memory"),
    "format": ("{{ '{:>10000000000}'.format(n) }}", "memory"),
    "format-filter": ("{{ '%10000000000d'|format(1) }}", "memory|digits|too big"),
    "ljust": ("{{ 'x'.ljust(10**10) }}", "memory"),
    "center": ("{{ 'x'|center(10**10) }}", "memory"),
    "zfill": ("{{ 'x'.zfill(10**10) }}", "memory"),
    "expandtabs": ("{{ '\t'.expandtabs(10**9) }}", "memory"),
    "indent": ("{{ 'x\ny'|indent(10**10) }}", "memory"),
    "replace": ("{{ ('a' * 10**5)|replace('a', 'b' * 10**5) }}", "memory"),
    "join": ("{{ ('x' * 10**6)|list|join('y' * 10**6) }}", "memory|seconds"),
    "batch": ("{{ [1]|batch(10**10, 0)|list }}", "memory"),
    "tojson-indent": ("{{ [1]|tojson(indent=10**10) }}", "memory"),
    "wordwrap": ("{{ ('x' * 10**7)|wordwrap(1) }}", "seconds|memory|steps"),
    "urlize": ("{{ ('a ' * 10**6)|urlize }}", "seconds|memory|steps"),
    "lorem": ("{{ lipsum(n=10**8) }}", "steps|seconds"),
    "macro-for-ever": (
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "recursion",
    ),
    "macro-exponential": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(60) }}",
        "steps",
    ),
    "recursive-loop": (
        "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "recursion",
    ),
    "deep-expression": ("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}", "recursion|crashed"),
    "deep-unary": ("{{ " + "-" * 100_000 + "1 }}", "recursion|crashed"),
    "deep-blocks": ("{% if x %}" * 20_000, "recursion|crashed"),
    "deep-lists": ("{{ " + "[" * 50_000 + "]" * 50_000 + " }}", "recursion|crashed"),
    "long": ("x" * ((1 << 20) + 1), "1,048,577 bytes long"),
    "surrogate": ("{{ '\\ud800' }}", "surrogates not allowed"),
    "strftime": ("{{ strftime_now('%Y' * 10**7) }}", "memory|expands|steps|seconds"),
}

#: a tighter budget, so that the whole list takes seconds
TIGHT = {"steps": 100_000, "memory_bytes": 64 << 20, "cpu_seconds": 1}

MANY = """
import json, resource, sys
from mlxquant.errors import TemplateError
from mlxquant.run.template import Budget, render

said = {}
for name, (source, _) in json.load(sys.stdin).items():
    try:
        text = render(source, {"n": 10**9, "messages": [1]}, Budget(**TIGHT))
        said[name] = "rendered: " + text[:50]
    except TemplateError as problem:
        said[name] = str(problem)
print(json.dumps([said, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


@pytest.fixture(scope="module")
def bombed() -> tuple[dict[str, str], int]:
    """What was said of each bomb, and the largest resident size of any child, bytes.

    All in a process of its own, whose only children are the renderers.
    """
    run = subprocess.run(
        [sys.executable, "-c", MANY.replace("TIGHT", repr(TIGHT))],
        input=json.dumps(BOMBS),
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    said, peak = json.loads(run.stdout)
    return said, peak * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_in_one_line(bombed: tuple[dict[str, str], int], name: str) -> None:
    said = bombed[0][name]
    assert said.startswith("chat template")
    assert "\n" not in said
    pattern = BOMBS[name][1].split("|")
    assert any(reason in said for reason in pattern), said


def test_bombs_take_no_more_memory_than_their_budget(bombed: tuple[dict[str, str], int]) -> None:
    """64 MiB, the interpreter's own 64 MiB, and what a process gets between two looks at it."""
    assert 10 << 20 < bombed[1] < 256 << 20


@pytest.mark.parametrize("name", ["nested-loops", "multiply", "doubling", "loop-output"])
def test_the_default_budget_ends_them_too(name: str) -> None:
    source, reasons = BOMBS[name]
    with pytest.raises(TemplateError, match=reasons):
        render(source, {"n": 10**9, "messages": [1]})


def test_memory_is_watched_where_the_system_does_not_limit_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """macOS ignores the address-space limit: the parent's look at the resident size is enough."""
    source = template.WORKER.read_text()
    unlimited = source.replace('sys.platform == "linux"', "False")
    assert unlimited != source
    monkeypatch.setattr(template, "WORKER", tmp_path / "worker.py")
    template.WORKER.write_text(unlimited)
    for name in ("doubling", "multiply-later", "blocks"):
        with pytest.raises(TemplateError, match="too much memory"):
            render(BOMBS[name][0], {"n": 10**9, "messages": [1]}, Budget(**TIGHT))


def test_time_is_watched_where_the_child_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A child that takes no CPU time but does not end is ended by the clock."""
    monkeypatch.setattr(template, "WORKER", tmp_path / "worker.py")
    template.WORKER.write_text("import sys, time\nsys.stdin.read()\ntime.sleep(1000)\n")
    with pytest.raises(TemplateError, match="takes too long"):
        render("x", {}, Budget(wall_seconds=0.3))


@pytest.mark.parametrize(
    "worker", ["", "raise SystemExit(3)", "print('nonsense')", "import os; os.abort()"]
)
def test_a_renderer_that_dies_is_an_error_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, worker: str
) -> None:
    monkeypatch.setattr(template, "WORKER", tmp_path / "worker.py")
    template.WORKER.write_text(worker)
    with pytest.raises(TemplateError, match="crashed the renderer"):
        render("x", {"text": "x" * 10**6})


def test_a_long_conversation_is_within_the_budget(tokenizer: Any) -> None:
    """Steps and bytes grow with what is rendered."""
    talk = [
        {"role": role, "content": f"{index} " + "word " * 500}
        for index in range(1000)
        for role in ("user", "assistant")
    ]
    for name in ("qwen-3", "mistral"):
        tokenizer.chat_template = (Path(__file__).parent / f"templates/{name}.jinja").read_text()
        text = apply_chat_template(tokenizer, talk)
        assert text == in_transformers(tokenizer, talk)
        assert len(text) > Budget().output_bytes


def test_loading_renders_nothing(variant: Callable[..., Path]) -> None:
    """A template that never ends, and one that is no template, do not hinder loading."""
    from mlxquant.run.model import load

    folder = variant()
    file = folder / "chat_template.jinja"
    for source in (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{%",
    ):
        file.write_text(source)
        _, tokenizer = load(folder)
        assert tokenizer.chat_template == source
        with pytest.raises(TemplateError):
            encode_chat(tokenizer, TALK)
