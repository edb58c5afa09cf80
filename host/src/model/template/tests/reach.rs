//! Ways out of the template language, and what honest templates do that looks like one.

use super::{codes, messages};

#[test]
fn ways_out_are_named() {
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ x['__class__'] }}",
        r"{{ x['\x5f\x5fclass\x5f\x5f'] }}",
        "{{ x['__cla' ~ 'ss__'] }}",
        "{% set a = '__cla' %}{{ x[a + 'ss__'] }}",
        "{{ x[['__', 'class', '__'] | join] }}",
        "{{ x | attr('foo') }}",
        "{{ messages | map(attribute='__class__') | list }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum('x') }}",
        "{{ open('/etc/passwd').read() }}",
        "{{ os.system('id') }}",
        "{{ self._TemplateReference__context }}",
        "{{ f.gi_frame }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if false %}{{ a.__init__ }}{% endif %}",
    ] {
        let found = codes(source);
        assert!(found.contains(&"template-reach".to_owned()), "{source}: {found:?}");
    }
    assert_eq!(codes("{{ frobnicate(1) }}"), ["template-unknown-name"]);
    assert_eq!(codes("{{ a | frobnicate }}"), ["template-unknown-name"]);
}

/// Ways to come by a name that stands nowhere in the template.
const PUT_TOGETHER: [&str; 46] = [
    "{{ cycler['__INIT__' | lower] }}",
    "{{ cycler['__INIT__'.lower()] }}",
    "{{ cycler['++init++' | replace('+', '_')] }}",
    "{{ cycler['++init++'.replace('+', '_')] }}",
    "{{ cycler['__'.join(['', 'init', ''])] }}",
    "{{ cycler['%c%cinit%c%c' % (95, 95, 95, 95)] }}",
    "{% set u = '%c' | format(95) %}{{ cycler[u * 2 + 'init' + u * 2] }}",
    "{% set u = '_' * 2 %}{{ cycler[u ~ 'init' ~ u] }}",
    "{{ cycler[dict(__init__=1) | join] }}",
    "{{ cycler[dict(__init__=1) | first] }}",
    "{{ cycler['{}init{}'.format('__', '__')] }}",
    "{% set name %}__init__{% endset %}{{ cycler[name] }}",
    "{% set name | lower %}__INIT__{% endset %}{{ cycler[name] }}",
    "{% macro name() %}__init__{% endmacro %}{{ cycler[name()] }}",
    "{% set ns = namespace(name='__in') %}{{ cycler[ns.name ~ 'it__'] }}",
    "{% set ns = namespace() %}{% set ns.name = '__INIT__' | lower %}{{ messages[ns.name] }}",
    "{{ cycler['__tini__'[::-1]] }}",
    "{{ cycler['__tini__' | reverse] }}",
    "{{ cycler['a__init__a'.strip('a')] }}",
    "{{ cycler['a,__init__'.split(',')[1]] }}",
    "{{ cycler[('__init__' | tojson)[1:-1]] }}",
    "{{ cycler['x' | int('__INIT__' | lower)] }}",
    "{{ cycler[strftime_now('__in%%it__')] }}",
    r"{{ cycler['\N{LOW LINE}\N{LOW LINE}init__'] }}",
    r"{{ cycler['\137\137init\137\137'] }}",
    "{{ messages['__CLASS__' | lower] }}",
    "{{ {'a': 1}['__CLASS__' | lower] }}",
    "{{ messages[bos_token] }}",
    "{{ cycler[messages[0].content] }}",
    "{{ ''[messages[0].content] }}",
    "{% set c = [cycler] %}{{ c[0][messages[0].content] }}",
    "{% macro f() %}{% endmacro %}{{ f[messages[0].content] }}",
    "{% for m in messages %}{{ loop[m.content] }}{% endfor %}",
    "{% for name in ['__INIT__' | lower] %}{{ messages[name] }}{% endfor %}",
    "{% set name = none %}{% for i in [1, 2, 3] %}{{ messages[name] }}{% set name = late %}{% set late = '__INIT__' | lower %}{% endfor %}",
    "{% macro f(a, name) %}{{ a[name] }}{% endmacro %}{{ f(messages, '__INIT__' | lower) }}",
    "{% macro f(a, name) %}{{ a[name] }}{% endmacro %}{{ f(*[messages, '__INIT__' | lower]) }}",
    "{% macro f(a, name='__INIT__' | lower) %}{{ a[name] }}{% endmacro %}{{ f(messages) }}",
    "{% macro f() %}{{ messages[varargs[0]] }}{% endmacro %}{{ f('__INIT__' | lower) }}",
    "{% macro f() %}{{ caller('__INIT__' | lower) }}{% endmacro %}{% call(name) f() %}{{ messages[name] }}{% endcall %}",
    "{% for name in ['a'] recursive %}{{ messages[name] }}{{ loop(['__INIT__' | lower]) }}{% endfor %}",
    "{% set names = [] %}{% set _ = names.append('__INIT__' | lower) %}{{ messages[names[0]] }}",
    "{% set ns = namespace(names=[]) %}{% set _ = ns.names.append('__INIT__' | lower) %}{{ messages[ns.names[0]] }}",
    "{% with name = '__INIT__' | lower %}{{ messages[name] }}{% endwith %}",
    "{% macro range() %}__INIT__{% endmacro %}{{ messages[range() | lower] }}",
    "{% set loop = {'index': '__INIT__' | lower} %}{{ messages[loop.index] }}",
];

#[test]
fn a_name_that_is_put_together_is_a_way_out() {
    for source in PUT_TOGETHER {
        assert!(codes(source).contains(&"template-reach".to_owned()), "{source}");
    }
    // Names that move from variable to variable for longer than anybody follows.
    let moved: String = (0..100).map(|i| format!("{{% set a{i} = a{} %}}", i + 1)).collect();
    let source = format!(
        "{{% for m in messages %}}{{{{ m[a0] }}}}{moved}{{% set a100 = 'A' | lower %}}{{% endfor %}}"
    );
    assert_eq!(codes(&source), ["template-reach"]);
}

#[test]
fn calling_what_has_no_name_is_a_way_out() {
    for source in [
        "{{ messages.pop.popen('id') }}",
        "{{ tools.f.read() }}",
        "{{ messages['pop']() }}",
        "{{ messages[messages[0].content]() }}",
        "{{ (messages | first)() }}",
        "{{ messages.get('a')('b') }}",
        "{% set f = messages.pop %}{{ f() }}",
        "{% set range = messages.pop %}{{ range() }}",
        "{% macro each(f) %}{{ f(1) }}{% endmacro %}{{ each(messages.pop) }}",
        "{% set ns = namespace(get=cycler) %}{{ ns.get('a') }}",
        "{% call messages.f.popen('id') %}{% endcall %}",
    ] {
        assert_eq!(codes(source), ["template-reach"], "{source}");
    }
}

#[test]
fn filters_take_only_names_that_are_written_out() {
    for source in [
        "{{ messages | map(attribute='a' ~ 'b') | list }}",
        "{{ messages | map(attribute=messages[0].content) | list }}",
        "{{ messages | map('at' ~ 'tr', 'a') | list }}",
        "{{ messages | map('attr', 'a') | list }}",
        "{{ messages | map('map', 'attr', 'a') | list }}",
        "{{ messages | map(*['attr', 'a']) | list }}",
        "{{ messages | map(**{'attribute': messages[0].content}) | list }}",
        "{{ messages | selectattr('A' | lower) | list }}",
        "{{ messages | rejectattr('_a') | list }}",
        "{{ messages | groupby('A' | lower) }}",
        "{{ messages | sort(attribute='a.__class__') }}",
        "{{ messages | sort(false, false, 'A' | lower) }}",
        "{{ messages | sum('A' | lower) }}",
        "{{ messages | unique(false, 'A' | lower) | list }}",
        "{{ messages | join(', ', 'A' | lower) }}",
        "{{ messages | max(attribute='A' | lower) }}",
        "{{ messages[0].content.format(cycler) }}",
        "{{ ('{0.a' ~ '}').format(cycler) }}",
        "{{ '{0.environment}'.format(cycler) }}",
        "{{ '{:{0[a]}}'.format(cycler) }}",
        "{% macro f() %}{% endmacro %}{{ f._environment }}",
        "{{ cycler['_a'] }}",
        "{{ messages['mro'] }}",
        "{{ messages.__reduce_ex__ }}{{ messages['__reduce_ex__'] }}",
    ] {
        assert_eq!(codes(source), ["template-reach"], "{source}");
    }
}

/// What a reader of templates could skip and a runtime would not.
#[test]
fn nothing_is_skipped() {
    for source in [
        "{% set x | default(cycler.__init__) %}{% endset %}",
        "{% autoescape cycler.__init__ %}{% endautoescape %}",
        "{% filter default(cycler.__init__) %}x{% endfilter %}",
        "{% raw %}{%                                             endraw %}{{ cycler.__init__ }}{% raw %}{% endraw %}",
        "{% raw %}{%-\n\nendraw\n\n-%}{{ cycler.__init__ }}{% raw %}{% endraw %}",
        r"{{ '\N' }}{{ cycler.__init__ }}{{ '}' }}",
    ] {
        assert_eq!(codes(source), ["template-reach"], "{source}");
    }
    for source in [
        "{% generation cycler.__init__ %}{% endgeneration %}",
        "{% block a cycler.__init__ %}{% endblock %}",
        "{% macro f() cycler.__init__ %}{% endmacro %}",
        "{% call f() cycler.__init__ %}{% endcall %}",
        // Letters that Python takes for others.
        "{{ messages | map(\u{ff41}ttribute='A' | lower) }}",
    ] {
        assert_eq!(codes(source), ["template-unread"], "{source}");
    }
}

#[test]
fn honest_ways_to_name_parts_pass() {
    for source in [
        "{% for m in messages %}{{ messages[loop.index0 - 1].role }}{{ messages[-1]['content'][:10] }}{% endfor %}",
        "{% for i in range(messages | length - 1, -1, -1) %}{{ messages[i].role }}{{ messages[i + 1].role }}{% endfor %}",
        "{% set ns = namespace(last=0, name='') %}{% for m in messages %}{% set ns.last = loop.index0 %}{% set ns.name = 'a' ~ m.role %}{% endfor %}{{ messages[ns.last] }}",
        "{% set types = {'string': 'str', 'number': 'float'} %}{% for t in tools %}{{ types[t.type] }}{{ types[t.get('type') | lower] }}{% endfor %}",
        "{% for field in ['name', 'description'] %}{% if field in tools[0] %}{{ tools[0][field] }}{% endif %}{% endfor %}",
        "{% for key, value in tools[0] | dictsort %}{{ tools[0][key] }}{% endfor %}{% for t in tools | map(attribute='function.name') | map('lower') %}{{ names[t] }}{% endfor %}",
        "{% set space = tools[0].name.split('.')[0] %}{% set ns = namespace(seen=[]) %}{% set ns.seen = ns.seen + [space] %}{% for s in ns.seen %}{{ described[s] }}{% endfor %}",
        "{% macro field(of, name=none) %}{{ of[name] }}{% endmacro %}{{ field(tools[0], name='title') }}",
        // What is a namespace for some messages is cut like a text for others.
        "{% for m in messages %}{% if m.content is string %}{% set content = m.content %}{% else %}{% set content = namespace(text='') %}{% set content = content.text %}{% endif %}{{ content.split('</think>')[-1] }}{% endfor %}",
        // Macros in a list, called by their place.
        "{% macro a(x) %}{{ x }}{% endmacro %}{% macro b(x) %}{{ x }}{% endmacro %}{% set all = [] %}{% set given = [] %}{% if tools %}{% set all = all + [a] %}{% set given = given + [[tools]] %}{% endif %}{% for i in range(all | length) %}{{ all[i](*given[i]) }}{% endfor %}",
        "{% set mark = '<think{}>'.format(suffix) %}{{ '{:>4}'.format(1) }}{{ '%s: %d' | format('a', 1) }}{{ mark }}",
        "{% set queue = namespace(ids=[]) %}{% set _ = queue.ids.append('call' ~ 1) %}{{ queue.ids.pop(0) }}",
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('\n') | title }}",
        "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == m.role %}{{ loop.previtem.content.upper() }}{% endif %}{% endfor %}",
        "{{ 'a____b' }}{{ '__' ~ messages[0].role }}{{ 'fill in: __________' }}",
    ] {
        assert_eq!(messages(source), "", "{source}");
    }
}
