import TestSupport
import Testing

@testable import MLXQuantFormats
@testable import MLXQuantRuntime

/// What templates of models look like.
private let seeds = [
    """
    {%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message['content']|trim }}
    {%- if not loop.last %}{{ '<|im_end|>' }}{% endif %}{% endfor %}
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
    """,
    """
    {%- set ns = namespace(found=false, text='') -%}
    {%- macro show(x, y=1) -%}{{ x ~ y }}{%- endmacro -%}
    {%- for m in messages[1:] if m.role != 'system' -%}
    {%- set ns.found = true %}{% set ns.text = ns.text ~ show(m.content, y=loop.index) -%}
    {%- else -%}{{ raise_exception('empty') }}{%- endfor -%}
    {{ ns.text.split('a')[-1].strip() }}{# a comment #}{% raw %}{{ x }}{% endraw %}
    """,
    """
    {% set x = {'a': [1, 2.5, 3], 'b': {'c': 'd'}} %}{{ x | tojson(indent=2) }}
    {% for k, v in x|dictsort %}{{ '%s=%r' % (k, v) }}{{ '{:>5}'.format(loop.index) }}{% endfor %}
    {{ range(3)|map('string')|join(',') }}{{ messages|selectattr('role', 'eq', 'user')|list|length }}
    {% with y = x.a %}{{ y|sum if y is iterable else y }}{% endwith %}{{ strftime_now('%d %b %Y') }}
    """,
]

/// A random template: expressions of all kinds within tags of all kinds.
private struct Writer {
    var random: RandomStream

    private let names = [
        "messages", "x", "loop", "ns", "message", "bos_token", "range", "namespace", "dict",
        "undefined",
        "loop.index", "messages[0].content", "x.y", "true", "none", "s",
    ]
    private let literals = [
        "0", "1", "-1", "3", "64", "100000", "9223372036854775807", "(-9223372036854775807 - 1)",
        "1.5",
        "1e308", "1e999", "'a'", "'a b a'", "''", "'%s %5d %-3s %%'", "'{} {:>5} {x}'", "'\\u00e9'",
        "[]", "{}", "()", "['a', 'b']", "{'a': 1}",
    ]
    private let heavy = ["'x' * 1000000", "range(100000)", "[s] * 1000"]
    private let operators = [
        "+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and",
        "or",
    ]
    private let filters = [
        "abs", "int", "float", "round", "round(2, 'ceil')", "upper", "lower", "title", "capitalize",
        "trim", "trim('a')", "replace('a', 'bb')", "length", "list", "first", "last", "reverse",
        "join",
        "join(',')", "sort", "sort(reverse=true)", "unique", "sum", "min", "max", "items",
        "dictsort",
        "map('upper')", "map('map', 'list')", "map(attribute='a')", "select", "select('odd')",
        "rejectattr('a')", "tojson", "tojson(indent=4)", "tojson(ensure_ascii=true)", "indent(4)",
        "indent('xx')", "truncate(9223372036854775807)", "truncate(-9)", "wordcount", "e", "string",
        "default('x')", "default('x', true)", "format('a')", "bool", "zzz",
    ]
    private let methods = [
        "split()", "split('a')", "rsplit('a', 1)", "splitlines()", "strip()", "lstrip('a')",
        "upper()",
        "title()", "startswith('a')", "endswith(('a', 'b'))", "replace('a', 'aaaa')", "find('b')",
        "rfind('')", "count('')", "index(1)", "join(x)", "format(1, x=2)", "items()", "keys()",
        "values()", "get('a', 1)", "isdigit()", "append(1)", "removesuffix('a')", "cycle('a', 1)",
    ]
    private let tests = [
        "defined", "none", "string", "mapping", "odd", "divisibleby(-1)", "divisibleby 3", "in [1]",
        "eq(1)", "lt(2)", "iterable", "upper", "callable", "sameas(x)", "zzz",
    ]

    mutating func expression(_ depth: Int = 0) -> String {
        if depth > 4 { return random.pick(random.once(in: 2) ? names : literals) }
        switch random.below(14) {
        case 0...2: return random.pick(names)
        case 3, 4: return random.pick(random.once(in: 40) ? heavy : literals)
        case 5, 6:
            return "\(expression(depth + 1)) \(random.pick(operators)) \(expression(depth + 1))"
        case 7, 8: return "\(expression(depth + 1))|\(random.pick(filters))"
        case 9: return "(\(expression(depth + 1))).\(random.pick(methods))"
        case 10: return "\(expression(depth + 1)) is \(random.pick(tests))"
        case 11: return "(\(expression(depth + 1)))[\(slice(depth + 1))]"
        case 12: return "[\(expression(depth + 1)), \(expression(depth + 1))]"
        default:
            return
                "(\(expression(depth + 1)) if \(expression(depth + 1)) else \(expression(depth + 1)))"
        }
    }

    private mutating func slice(_ depth: Int) -> String {
        let parts = (0..<3).map { _ in random.once(in: 2) ? "" : expression(depth) }
        return random.once(in: 2) ? parts.joined(separator: ":") : expression(depth)
    }

    mutating func template(_ depth: Int = 0) -> String {
        var text = ""
        for _ in 0...random.below(3) {
            let inside = depth < 3 ? template(depth + 1) : "t"
            switch random.below(10) {
            case 0...2: text += "{{ \(expression()) }}"
            case 3: text += "{% set x = \(expression()) %}"
            case 4: text += "{% set x = [x, x, s] %}{{ x == [x, s] }}"
            case 5: text += "{%- if \(expression()) -%}\(inside){% else %}\(inside){% endif %}"
            case 6: text += "{% for s in \(expression()) %}\(inside){% endfor %}"
            case 7:
                text += "{% set ns = namespace(a=x) %}{% set ns.a = \(expression()) %}{{ ns.a }}"
            case 8: text += "{% macro m(a, b=x) %}\(inside){{ m(a, b) }}{% endmacro %}{{ m(x) }}"
            default:
                text += "{% set s %}\(inside){% endset %}{% with s = s ~ s %}\(inside){% endwith %}"
            }
        }
        return text
    }
}

private let conversation: JSON = {
    func turn(_ role: String, _ content: String) -> JSON {
        .object(
            JSONObject([
                .init(name: "role", value: .string(role)),
                .init(name: "content", value: .string(content)),
            ])
        )
    }
    return .array([
        turn("system", "Be short."), turn("user", "Hello  a b a\n\u{E9}"), turn("assistant", "x"),
    ])
}()

/// Renders a template; whether it could be.
private func renders(_ source: String) -> Bool {
    do throws(TemplateError) {
        let values: [String: JSON] = [
            "bos_token": .string("<s>"), "x": conversation,
            "s": .string(String(repeating: "ab ", count: 99)),
        ]
        _ = try ChatTemplate(source).render(messages: conversation, variables: values)
        return true
    } catch {
        #expect(isPrintable(error.reason) && error.reason.utf8.count < 2_000)
        return false
    }
}

@Suite("Templates of strangers")
struct TemplateFuzzTests {
    @Test("mutations of usual ones are rendered, or refused")
    func mutations() throws {
        for seed in seeds { #expect(renders(seed)) }
        #expect(
            renders("{{ 'a'|map(" + String(repeating: "'map', ", count: 63) + "'list')|list }}")
        )
        let rendered = try onSmallStack {
            var random = fuzzNumbers(31)
            var rendered = 0
            for _ in 0..<(1_500 * fuzzFactor) {
                let bytes = Array(random.pick(seeds).utf8)
                let other = Array(random.pick(seeds).utf8)
                var changed = TestSupport.mutated(bytes, near: bytes.count, &random)
                if random.once(in: 3) {
                    let start = random.below(other.count)
                    let part = other[start..<min(other.count, start + 60)]
                    changed.insert(contentsOf: part, at: random.below(changed.count + 1))
                }
                if renders(String(decoding: changed, as: UTF8.self)) { rendered += 1 }
            }
            return rendered
        }
        #expect(rendered > 15)
    }

    @Test("random ones are rendered, or refused")
    func random() throws {
        let rendered = try onSmallStack {
            var writer = Writer(random: fuzzNumbers(32))
            var rendered = 0
            for _ in 0..<(500 * fuzzFactor) where renders(writer.template()) { rendered += 1 }
            return rendered
        }
        #expect(rendered > 25)
    }

    @Test(
        "what would take for ever, or all memory, or all of the stack, is refused",
        arguments: [
            "{{ 'a'|map(" + String(repeating: "'map', ", count: 9_000) + "'list')|list }}",
            "{{ ['x' * 1000000] * 100000 }}", "{{ ['x' * 1000000] * 1000 ~ '' }}",
            "{% set s = 'x' * 1000000 %}{{ [s, [s, [s] * 1000]]|tojson }}",
            "{{ ('a\\n' * 1000000)|indent('x' * 1000000) }}",
            "{{ [[1] * 1000] * 1000|tojson(indent='x' * 99) }}",
            "{% set x = [1] %}" + String(repeating: "{% set x = [x, x] %}", count: 40) + "{{ x }}",
            "{% set x = [1] %}" + String(repeating: "{% set x = [x, x] %}", count: 16)
                + "{% for i in range(99999) %}{{ x == [x[0], x[0]] }}{% endfor %}",
            "{% set s = 'a' * 9000000 %}{% set t = 'a' * 9000000 %}"
                + "{% for i in range(99999) %}{{ s == t }}{% endfor %}",
            "{% set s = 'a' * 9000000 %}{% for i in range(99999) %}{{ s|length }}{% endfor %}",
            "{% set s = 'a' * 9000000 %}{% for i in range(99999) %}{{ 'b' in s }}{% endfor %}",
            "{% set r = range(99999) %}{% for i in r %}{{ -1 in r }}{% endfor %}",
            "{% set r = range(99999)|list %}{{ r|map('list')|list }}{{ (r + r + r)|unique|list }}",
            "{% for i in range(99999) %}{% set x = range(99999) %}{% endfor %}",
            "{% set s = 'a ' * 9000000 %}{{ s.split() }}",
            "{% set s = '\\n' * 9000000 %}{{ s.splitlines() }}",
            "{% set s = 'a' * 9000000 %}{{ s|list }}",
            "{% set s = 'a' * 9000000 %}{{ s.split('a') }}",
            "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
            "{{ " + String(repeating: "(", count: 9_000),
            "{{ " + String(repeating: "-", count: 9_000) + "1 }}",
            "{{ " + String(repeating: "not ", count: 9_000) + "1 }}",
            "{{ " + String(repeating: "[", count: 9_000),
            String(repeating: "{% if 1 %}", count: 9_000),
            "{{ 1" + String(repeating: " if 1", count: 9_000) + "}}",
            "{{ 1" + String(repeating: "|abs", count: 9_000) + " }}",
            "{{ x" + String(repeating: ".y", count: 9_000) + " }}",
            "{% raw %}" + String(repeating: "{% {", count: 200_000),
            "{% raw %}" + String(repeating: "{%- endraw -", count: 80_000),
            "{{ 9 ** 9 ** 9 }}",
            "{{ '' ~ 9.9 ** 999 }}",
        ]
    )
    func refused(_ source: String) throws {
        try onSmallStack {
            #expect(!renders(source))
        }
    }

    @Test(
        "numbers at their ends",
        arguments: [
            ("{{ [] * 9223372036854775807 }}{{ '' * 9223372036854775807 }}", "[]"),
            ("{{ [1] * -9223372036854775807 }}{{ 'a' * -1 }}", "[]"),
            ("{{ (-9223372036854775807 - 1) is divisibleby(-1) }}", "True"),
            ("{{ 'abc'|truncate(9223372036854775807) }}", "abc"),
            ("{{ 'abc'|truncate(-9223372036854775807) }}", "abc"),
            ("{{ 'abc'[-9223372036854775807 - 1] }}|{{ 'abc'[9223372036854775807] }}", "|"),
            ("{{ 'abc'[-1] }}{{ 'abc'[0] }}{{ 'abc'[-3] }}{{ 'abc'[3] }}{{ 'abc'[-4] }}", "caa"),
            (
                "{{ range(9223372036854775806, 9223372036854775807, 100)|list }}",
                "[9223372036854775806]"
            ),
            ("{{ 'abc'[::9223372036854775807] }}{{ 'abc'[::-9223372036854775807] }}", "ac"),
        ]
    )
    func ends(_ source: String, _ wanted: String) throws {
        #expect(try ChatTemplate(source).render([]) == wanted)
    }
}
