"""The Swift package's chat templates: what Jinja renders, and an end for those without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import vocabularies
from conversations import CALLS, SYSTEM, TALK, TOOLS
from swift_package.runtime import probe
from swift_package.toolchain import MARKS

from mlxquant.run.template_worker import RefusalError, make_environment

pytestmark = MARKS

TEMPLATES = sorted((Path(__file__).parents[1] / "run" / "templates").glob("*.jinja"))

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False}


def case(template: str, messages: Any = TALK, prompt: bool = True, **variables: Any) -> Any:
    return {
        "template": template,
        "messages": messages,
        "prompt": prompt,
        "variables": VARIABLES | variables,
    }


def in_jinja(given: dict[str, Any]) -> str:
    """What Jinja renders, in the environment of transformers."""
    template = make_environment().from_string(given["template"])
    values = {"tools": None, "documents": None, **given["variables"]}
    text = template.render(
        messages=given["messages"], add_generation_prompt=given["prompt"], **values
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_real_templates(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    documents = [{"title": "One", "text": "The first\nof several documents."}]
    cases = [
        case(source),
        case(source, prompt=False),
        case(source, [SYSTEM, *TALK]),
        case(source, CALLS, tools=TOOLS, documents=documents),
        case(source, TALK[:1], enable_thinking=True),
    ]
    rendered = 0
    for given, found in zip(cases, probe("render", {"cases": cases}), strict=True):
        try:
            expected = in_jinja(given)
        except RefusalError as refused:
            assert found["error"] == "refused"
            assert str(refused) in found["reason"]
        except TypeError:
            assert found["error"] == "failed"
        else:
            assert found.get("text", found.get("reason")) == expected
            rendered += 1
    assert rendered >= 3


#: the language, a few things a line
SNIPPETS = (
    "{{ 'a' ~ 1 ~ none ~ true ~ 1.5 }}|{{ [1,'a',none,{'b':2}] }}|{{ 7 // 2 }} {{ -7 // 2 }}",
    "{{ -7 % 3 }} {{ 7 / 2 }} {{ 2**10 }} {{ 1e3 }} {{ 2 - -1 }} {{ (1 + 2) * 3 }} {{ - 1 + 2 }}",
    "{% for x in [1,2,3] if x != 2 %}{{ loop.index }}:{{ x }}{% if not loop.last %}, {% endif %}"
    "{% else %}none{% endfor %}{% for x in [] %}{% else %}none{% endfor %}",
    "{%- for k, v in {'a':1,'b':2}.items() -%} {{ k }}={{ v }}; {%- endfor -%} x",
    "{% set ns = namespace(x=0) %}{% for i in range(5) %}{% set ns.x = ns.x + i %}{% endfor %}"
    "{{ ns.x }}",
    "{% macro f(a, b='z') %}[{{ a }}{{ b }}]{% endmacro %}{{ f('x') }}{{ f('x', b='y') }}",
    "{{ 'Hello World'.split(' ')[-1] }} {{ '  x '.strip() }}| {{ ' ab '|trim }} {{ 'abc'[1:] }}",
    "{{ 'abc'[::-1] }} {{ [1,2,3,4][1:3] }} {{ 'abc'[-1] }} {{ [1,2,3][-2:] }} {{ 'abc'[:-1] }}",
    "{{ 'x' is string }} {{ 1 is number }} {{ none is none }} {{ foo is defined }}"
    " {{ foo is not defined }} {{ {} is mapping }} {{ [] is sequence }} {{ 'a' in 'abc' }}",
    "{{ {'a': [1, 2.5, 'é\"<>', none, true]}|tojson }} {{ {'b':1,'a':{'x':[]}}|tojson(indent=2) }}",
    "{{ foo or 'default' }} {{ foo|default('d') }} {{ ''|default('d', true) }} {{ foo and 1 }}",
    "{{ 'yes' if 1 == 1 else 'no' }} {{ 'yes' if false }}|{{ not true and false or true }}",
    "{{ ['b','a','C']|sort|join(',') }} {{ [3,1,2]|sort(reverse=true) }}"
    " {{ [{'a':1},{'a':2}]|map(attribute='a')|list }} {{ ['a','b']|map('upper')|join }}"
    " {{ [{'a':1},{'b':2}]|selectattr('a','defined')|list }}",
    "{{ 'title case here'|title }} {{ 'cAP'|capitalize }} {{ 'Up'|upper|lower }} {{ [1,2,3]|sum }}"
    " {{ [1,5,3]|max }} {{ [1,2,2]|unique|list }} {{ 'é🦉'|length }} {{ 'ab'|reverse }}",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc {# comment #} d\n    {# l #}\ne\n{{- ' f' -}}\n  g",
    "{% raw %}{{ not }} {% x %}{% endraw %} {%+ if true %}kept{%+ endif +%}\nx",
    "  {% if true %}a{% endif %}\n  b\r\n{% if true %}\r\nq{% endif %}\n\n",
    "x  {%- if true -%}  y  {%- endif %}  z\n   {# c #}  x\n{#- d -#}  y\n\n",
    "{% set block %}text {{ 1 + 1 }}{% endset %}{{ block|upper }} {% set a, b = 1, 2 %}{{ a + b }}",
    "{{ '%s and %d' % ('a', 3) }} {{ 'a' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ 1 < 2 < 3 }}",
    "{{ 1 < 3 < 2 }} {{ '10' | int + 5 }} {{ '3.7'|float }} {{ 3.7|int }} {{ 2.5|round }}"
    " {{ 2.567|round(2) }} {{ -3|abs }} {{ '%05.1f|%-4s|%+d' % (2.25, 'a', 7) }}",
    "{{ 'a,b,c'.split(',', 1) }} {{ 'a b  c'.split() }} {{ 'abc'.endswith(('x','bc')) }}"
    " {{ 'aXbX'.replace('X','-') }} {{ 'abc'.find('c') }} {{ 'ab\\ncd'.splitlines() }}",
    "{{ 'x'.join(['1','2']) }} {{ 'abcabc'.rfind('b') }} {{ 'a-b-c'.rsplit('-', 1) }}"
    " {{ '12'.isdigit() }} {{ 'lstr'.lstrip('l') }} {{ '{:>4}|{}'.format('z', 1) }}",
    "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}"
    " {% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for x in 'abc' %}{{ loop.revindex }}{{ loop.first }}{{ loop.previtem is defined }}"
    "{{ loop.nextitem }}{{ loop.cycle('o','e') }}{{ loop.length }} {% endfor %}",
    "{{ messages[0].role }} {{ messages|length }} {{ messages[-1].get('x', 'none') }}"
    " {{ messages[0].missing is defined }} {{ messages[0].keys()|list }} {{ messages[::2]|count }}",
    "{{ {'a':1}|dictsort }} {{ {'b':1,'a':2}|items|list }} {{ 'a<b>\"c\"'|e }}"
    " {{ 'l1\\nl2'|indent(2, true) }} {{ [\"it's\", 'a\"b'] }} {{ '\\u00e9\\x41\\t|' }}",
    "{{ 1.0 }} {{ 1e16 }} {{ 0.00001 }} {{ 123456789.123 }} {{ 1e-7 }} {{ 5e22 }} {{ 10/3 }}",
    "{{ 'x' == \"x\" and 'a' < 'b' }} {{ [1,2] == [1,2] }} {{ none == false }} {{ 1 == 1.0 }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}"
    "{% set x = 3 %}{% endif %}{{ x }}{% with q = 3 %}{{ q }}{% endwith %}{{ q is defined }}",
    "{{ (1, 2) }} {{ () }} {{ ('a',) }} {%- generation -%} x {%- endgeneration %}y",
    "{{ [1,2,3,4]|select('even')|list }} {{ [1,2,3]|reject('odd')|list }}"
    " {{ ['a',none]|select|list }} {{ 8 is divisibleby 4 }} {{ 3 is odd }} {{ 'A' is upper }}"
    " {{ [1,2]|first }}{{ [1,2]|last }}",
    "{{ [{'f':{'n':'a'}},{'f':{'n':'B'}}]|map(attribute='f.n')|join }}"
    " {{ [[1,2]]|map(attribute='1')|list }}"
    " {{ [{'f':{}}]|map(attribute='f.n', default='z')|list }} {{ [{'f':{'n':2}}]|sum('f.n', 3) }}"
    " {{ [{'f':{'n':2}},{'f':{'n':1}}]|sort(attribute='f.n') }}"
    " {{ [{'f':{'n':2}},{'f':{'n':1}}]|selectattr('f.n','eq',1)|list }}",
    "{{ {'b':1,'A':2}|dictsort(true) }} {{ {'b':1,'A':2}|dictsort(false,'value') }}"
    " {{ {'b':1,'A':2}|dictsort(reverse=true) }} {{ {'b':1,'A':2}|dictsort(by='value') }}"
    " {{ [('a',1),('A',2),('b',3)]|sort(reverse=true, attribute=0) }}",
    "{{ ['a','B','b','A']|unique|list }} {{ ['a','A']|unique(true)|list }} {{ ['a','B']|max }}"
    " {{ ['a','B']|min(case_sensitive=true) }}"
    " {{ [{'v':1},{'v':9},{'v':9,'w':1}]|max(attribute='v') }}"
    " {{ [{'x':'a'},{'x':'A'},{'x':1}]|unique(attribute='x')|list }}",
    '{{ "a-b c.d it\'s (foo) <b>X"|title }} {{ "a-b c.d it\'s".title() }}'
    " {{ '  TWO  x '|title }}|{{ 3|round }} {{ 3|round(1, 'floor') }}"
    " {{ 'a b c '.split(none, 1) }} {{ ' a  b c'.rsplit(none, 1) }}",
    "{% set ns = namespace(f=false) %}{% for m in messages if m.role == 'user' and not ns.f %}"
    "{% set ns.f = true %}{{ m.content }}{% else %}none{% endfor %}",
    "{% for x in [1,2] if x > 5 %}a{% else %}e{% endfor %}{% for x in [1,2,3] if x != 2 %}"
    "{{ loop.index }}{{ loop.last }}{% endfor %}{% for x in [1,2] %}"
    "{% for y in [1,2] if loop.index == y %}{{ x }}{{ y }}{% endfor %}{% endfor %}",
    "a{% raw %}\n b\n   {% endraw %}\nc\n  {% raw -%}\n {{ x }}\n  {%+ endraw %}{{ 1 }}",
)


def test_the_language_is_jinjas() -> None:
    cases = [case(snippet) for snippet in SNIPPETS]
    for given, found in zip(cases, probe("render", {"cases": cases}), strict=True):
        expected = (given["template"], in_jinja(given))
        assert (given["template"], found.get("text", found.get("reason"))) == expected


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{{ raise_exception('not ' ~ messages[0].role) }}", "refused"),
        ("{{ messages.foo.bar }}", "failed"),
        ("{{ 1 + 'a' }}", "failed"),
        ("{{ missing() }}", "failed"),
        ("{{ [1].append(2) }}", "failed"),
        ("{{ 'abc'.startswith('b', 1) }}", "failed"),
        ("{{ {}|dictsort(by='x') }}", "failed"),
        ("{{ 'x'.__class__.__mro__ }}", "failed"),
        ("{{ messages|bogus }}", "syntax"),
        ("{% if true %}", "syntax"),
        ("{% endif %}", "syntax"),
        ("{{ 1 +", "syntax"),
        ("{% include 'x' %}", "syntax"),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "syntax"),
        ("{{ 1" + " + 1" * 5000 + " }}", "syntax"),
        ("{% if true %}" * 500 + "{% endif %}" * 500, "syntax"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "budget",
        ),
        ("{{ range(10 ** 9) }}", "budget"),
        ("{{ 'a' * 10 ** 9 }}", "budget"),
        ("{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
         "{% endfor %}", "budget"),
        ("{% set ns = namespace(x=1) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}", "budget"),
        ("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns.x.x.x }}", "budget"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "budget"),
        ("{{ '%9999999s' % 'x' }}", "failed"),
        ("{{ 2 ** 63 }}", "budget"),
        ("{{ 1 // 0 }}", "failed"),
    ],
)  # fmt: skip
def test_hostile_templates_end(template: str, kind: str) -> None:
    (found,) = probe("render", {"cases": [case(template)]})
    assert found["error"] == kind, found
    assert found["reason"].startswith("chat template")
    assert "\n" not in found["reason"]


def in_transformers(folder: Path) -> dict[str, str]:
    """The templates of a folder, by name, as mlx-lm gets them from transformers."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder, local_files_only=True).chat_template
    return found if isinstance(found, dict) else {} if found is None else {"default": found}


WORDS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LISTED = [{"name": "default", "template": "c"}, {"name": "tool_use", "template": "d"}]


@pytest.mark.parametrize(
    ("setting", "files"),
    [
        (None, {}),
        ("c", {}),
        (LISTED, {}),
        (None, {"chat_template.jinja": "a\r\n\u00e9"}),
        ("c", {"chat_template.jinja": "a"}),
        (LISTED, {"chat_template.jinja": "a"}),
        (LISTED, {"additional_chat_templates/rag.jinja": "b"}),
        ("c", {"chat_template.jinja": "a", "additional_chat_templates/tool_use.jinja": "b"}),
        (None, {"chat_template.jinja": "a", "additional_chat_templates/default.jinja": "b"}),
        (None, {"additional_chat_templates/x.txt": "b", "chat_templates/y.jinja": "b"}),
        (None, {"chat_template.json": '{"chat_template": "e"}'}),
        ("c", {"chat_template.json": '{"chat_template": "e"}'}),
    ],
)
def test_templates_are_where_transformers_finds_them(
    setting: Any, files: dict[str, str], tmp_path: Path
) -> None:
    folder = vocabularies.save(tmp_path / "t", vocabularies.byte_level(WORDS))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {} if setting is None else {"chat_template": setting}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode())
    found = {each["name"]: each["text"] for each in probe("templates", {}, folder)}
    expected = in_transformers(folder)
    # Python reads files as text, where line ends are one character
    assert {name: text.replace("\r\n", "\n") for name, text in found.items()} == expected


def test_broken_template_files_are_named(tmp_path: Path) -> None:
    folder = vocabularies.save(tmp_path / "t", vocabularies.byte_level(WORDS))
    (folder / "additional_chat_templates").mkdir()
    file = folder / "additional_chat_templates/rag.jinja"
    for content, says in ((b"\xff", "not UTF-8"), (b"x" * ((4 << 20) + 1), "the limit is")):
        file.write_bytes(content)
        with pytest.raises(AssertionError, match=f"rag.jinja: .*{says}"):
            probe("templates", {}, folder)
    file.unlink()
    outside = tmp_path / "outside.jinja"
    outside.write_text("{{ x }}")
    file.symlink_to(outside)
    with pytest.raises(AssertionError, match="outside the model folder"):
        probe("templates", {}, folder)
    file.unlink()
    for wrong in (1, [{"name": "x"}]):
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}))
        with pytest.raises(
            AssertionError, match=r"tokenizer_config.json: chat_template: .*expected"
        ):
            probe("templates", {}, folder)
