//! Templates that do not end, or whose output doubles, and honest ones that look like them.

use super::*;

fn endless(source: &str) -> bool {
    codes(source).contains(&"template-endless".to_owned())
}

#[test]
fn macros_and_loops_without_end_are_named() {
    for source in [
        "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f(n) %}{% if n > 0 %}{{ g(n - 1) }}{{ g(n - 1) }}{% endif %}{% endmacro %}{% macro g(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% macro f(n) %}{% for i in range(2) %}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endfor %}{% endmacro %}{{ f(40) }}",
        "{% macro f(x) %}{% if true %}{{ f(x) }}{% endif %}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{{ f(x) if x else f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% for i in [1] %}{{ f(x) }}{% endfor %}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% set y %}{{ f(x) }}{% endset %}{% endmacro %}{{ f(1) }}",
        "{% for x in tools recursive %}{{ loop(tools) }}{% endfor %}",
        "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% set l = [1] %}{% for x in l %}{% set _ = l.append(1) %}{% endfor %}",
        "{% set l = [1] %}{% set k = l %}{% for x in l %}{% do k.append(x) %}{% endfor %}",
        "{% macro f(k) %}{% set _ = k.append(1) %}{% endmacro %}{% set l = [1] %}{% for x in l %}{{ f(l) }}{% endfor %}",
        "{% for x in messages %}{% set _ = messages.append(x) %}{% endfor %}",
    ] {
        assert!(endless(source), "{source}");
    }
}

#[test]
fn what_doubles_is_named() {
    for step in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = [ns.x, ns.x] | join %}",
        "{% set ns.x = [ns.x, ns.x] %}",
        "{% set ns.x = {'a': ns.x, 'b': ns.x} %}",
        "{% set ns.x = ns.x | replace('a', 'aa') %}",
        "{% set ns.x = ns.x.replace('a', 'aa') %}",
        "{% set ns.x = '%s%s' | format(ns.x, ns.x) %}",
        "{% set ns.x = '{}{}'.format(ns.x, ns.x) %}",
        "{% set ns.x = ns.x | map('replace', '', ns.x) | join %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% set ns.x %}{% filter replace('a', 'aa') %}{{ ns.x }}{% endfilter %}{% endset %}",
        "{% set ns.x = ns.x ~ ns.y %}{% set ns.y = ns.y ~ ns.x %}",
        "{% set t = ns.x ~ ns.y %}{% set ns.x = ns.y %}{% set ns.y = t %}",
        // Objects that are new in every round, or one of two.
        "{% set t = namespace(x=ns.x ~ ns.x) %}{% set ns.x = t.x %}",
        "{% set t = namespace(x='') if loop.first else ns %}{% set t.x = t.x ~ t.x %}",
        "{{ double(ns) }}",
        "{% set ns.n = ns.n * 2 %}{{ 'x' * ns.n }}",
    ] {
        for over in ["messages", "range(60)"] {
            let source = format!(
                "{{% macro double(of) %}}{{% set of.x = of.x ~ of.x %}}{{% endmacro %}}\
                 {{% set ns = namespace(x='a', y='b', n=1) %}}{{% for m in {over} %}}{step}{{% endfor %}}"
            );
            assert!(endless(&source), "{source}");
        }
    }
    let many: String = (0..40).map(|i| format!("{{% set a{} = a{i} + a{i} %}}", i + 1)).collect();
    assert!(endless(&format!("{{% set a0 = ['x'] %}}{many}")));
    let many: String = (0..40)
        .map(|i| format!("{{% macro m{}() %}}{{{{ m{i}() }}}}{{{{ m{i}() }}}}{{% endmacro %}}", i + 1))
        .collect();
    assert!(endless(&format!("{{% macro m0() %}}x{{% endmacro %}}{many}{{{{ m40() }}}}")));
    assert!(endless("{% set l = [1] %}{% for x in range(60) %}{% set _ = l.extend(l) %}{% endfor %}"));
    assert!(endless(
        "{% set d = {'a': 'a'} %}{% for m in messages %}{% do d.update({'a': d.a ~ d.a}) %}{% endfor %}"
    ));
}

#[test]
fn huge_numbers_are_named() {
    for source in [
        "{{ 9**9**9**9 }}",
        "{{ 2**1000000000 }}",
        "{% for i in range('9999999999' | int) %}x{% endfor %}",
        "{% for i in range(('9' * 12) | int) %}x{% endfor %}",
        "{% for i in range(('9' ~ '99999999999') | int) %}x{% endfor %}",
        "{% for i in range(1e12 | int) %}x{% endfor %}",
        "{% for i in range(1_000_000_000_000) %}x{% endfor %}",
        "{% for i in range(10**10, 0, -1) %}x{% endfor %}",
        "{% for i in range(-(10**10), 0) %}x{% endfor %}",
        "{% for i in range(messages | length * 1000000000) %}x{% endfor %}",
        "{% set a = 'x' * 10000 %}{% set a = a * 10000 %}{% set a = a * 10000 %}",
        "{% macro f(a='x' * 10**10) %}{{ a }}{% endmacro %}{{ f() }}",
        "{{ '%1000000000s' % 'a' }}",
        "{{ '%*s' % (1000000000, 'a') }}",
        "{{ '{:>1000000000}'.format('a') }}",
        "{{ '{:>{w}}'.format('a', w=10**9) }}",
        "{{ '{:>{}}'.format('a', 999999999) }}",
        "{{ '%*d' | format(10**9, 1) }}",
        "{{ strftime_now('%999999999Y') }}",
        "{{ messages[0].content | replace('', 'x' * 100000) }}",
        "{{ ('http://a.b ' * 100000) | urlize(rel='x' * 100000) }}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{{ [1] | batch(10**10, 'x') | list }}",
        "{% set s = 'x' * 1000 %}{% for a in s %}{% for b in s %}{% for c in s %}y{% endfor %}{% endfor %}{% endfor %}",
    ] {
        assert!(endless(source), "{source}");
    }
    let nested = |depth: usize| {
        format!("{}x{}", "{% for a in messages %}".repeat(depth), "{% endfor %}".repeat(depth))
    };
    assert!(endless(&nested(12)));
    assert_eq!(messages(&nested(6)), "");
    // However many there are, each of them goes over a few.
    assert_eq!(messages(&nested(8).replace('x', &"A line of words. ".repeat(4))), "");
}

#[test]
fn honest_growth_passes() {
    for source in [
        // A text that is gathered, a list, counters.
        "{% set ns = namespace(text='', seen=[], n=0) %}{% for m in messages %}{% for p in m.content %}{% set ns.text = ns.text ~ p.text %}{% set ns.n = ns.n + 1 %}{% endfor %}{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.text }}{{ ns.n }}",
        // New for every message.
        "{% for m in messages %}{% set part = namespace(text='') %}{% for p in m.content %}{% set part.text = part.text + p['text'] %}{% endfor %}{{ part.text }}{% endfor %}",
        "{% set l = [] %}{% for m in messages %}{% set _ = l.append(m.role) %}{% endfor %}{{ l | join(', ') }}",
        // A schema is written by a macro that goes into its parts, several times over.
        "{% macro schema(spec, indent='') %}{% if spec.type == 'object' %}{% for name, inner in spec.properties | dictsort %}{{ indent ~ name }}{{ schema(inner, indent ~ '  ') }}{% endfor %}{% elif spec.anyOf %}{% for one in spec.anyOf %}{{ schema(one, indent) }}{% endfor %}{{ schema(spec['items'], indent) }}{{ schema(spec.other) }}{% endif %}{% endmacro %}{{ schema(tools[0].parameters) }}",
        "{% macro inner(of) %}{% set of = of.next %}{% if of %}{{ inner(of) }}{{ inner(of) }}{% endif %}{% endmacro %}{{ inner(tools) }}",
        "{% macro text(of, first=true) %}{% if first %}{{ text(of, false) }}{% endif %}{{ of }}{% endmacro %}{{ text(tools) }}",
        "{% for x in tools recursive %}{{ x.name }}{{ loop(x.children) }}{% endfor %}",
        "{{ '=' * 80 }}{{ tools | tojson(indent=4) }}{% for i in range(100) %}{{ i * 2 }}{% endfor %}{{ 2**10 }}",
        "{% for m in messages %}{{ ' ' * (loop.index0 * 10) }}{% endfor %}",
        "{% macro count(n) %}{{ n }}{{ n and count(n - 1) }}{% endmacro %}{{ count(3) }}",
        // Fields of formats that may be long, and escapes one after the other.
        "{% set f = '%s: %s' %}{{ f | format(messages[0].content, tools | tojson) }}{{ '{{{}: {}}}'.format(messages[0].role, 123456789) }}{{ '%d' | format(1000000000) }}",
        "{{ messages[0].content | replace('&', '&amp;') | replace('<', '&lt;') | replace('>', '&gt;') | replace('\"', '&quot;') | urlize }}{{ strftime_now('%Y-%m-%d, since 2024') }}",
        "{% for m in messages[::-1] %}{% for n in messages[loop.index:] %}{% for c in n.tool_calls %}{% for k, v in c.arguments.items() %}{% for line in v.split('\n') %}{{ line }}{% endfor %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
    ] {
        assert_eq!(messages(source), "", "{source}");
    }
}

#[test]
fn what_takes_too_long_to_follow_is_no_pass() {
    let nested = format!(
        "{}{}{}",
        "{% for m in messages %}".repeat(8),
        "{% set ns.x = ns.x ~ 'a' %}".repeat(9000),
        "{% endfor %}".repeat(8)
    );
    assert_eq!(codes(&nested), ["template-unread"]);
    let many = format!(
        "{{% macro m() %}}{}{{% endmacro %}}{}",
        "x ".repeat(50_000),
        "{% if 'bank' in messages[0].content %}{{ m() }}{% endif %}".repeat(2500)
    );
    assert!(codes(&many).contains(&"template-unread".to_owned()));
}
