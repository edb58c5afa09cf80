//! Templates of ten well-known shapes against texts written by hand, and hostile ones.

use super::*;

fn said(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

fn conversation(template: &str, messages: &[Message]) -> Conversation {
    Conversation {
        template: template.to_owned(),
        messages: messages.to_vec(),
        bos: "<s>".to_owned(),
        eos: "</s>".to_owned(),
    }
}

/// A system message, a question, its answer, and another question.
fn talk() -> Vec<Message> {
    vec![
        said("system", "Be brief."),
        said("user", "Hi <b>"),
        said("assistant", " Hello. "),
        said("user", "Bye?"),
    ]
}

/// Name, template, text of [`talk`].
const SHAPES: [(&str, &str, &str); 10] = [
    (
        "ChatML",
        "{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n\
         <|im_start|>assistant\n Hello. <|im_end|>\n<|im_start|>user\nBye?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "Llama 2",
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}\
         {% else %}{% set rest = messages %}{% set system = false %}{% endif %}\
         {% for message in rest %}\
         {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
         {{ raise_exception('roles must alternate user/assistant') }}{% endif %}\
         {% if loop.index0 == 0 and system != false %}\
         {% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}\
         {% else %}{% set content = message['content'] %}{% endif %}\
         {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
         {% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}\
         {% endfor %}",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi <b> [/INST] Hello. </s><s>[INST] Bye? [/INST]",
    ),
    (
        "Llama 3",
        "{%- if strftime_now is defined %}{%- set date = strftime_now('%d %b %Y') %}{%- else %}{%- set date = '26 Jul 2024' %}{%- endif %}
{%- for message in messages %}
    {%- set content = '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' %}
    {%- if loop.first %}{%- set content = bos_token + content %}{%- endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
{#- the date is ' ~ date ~ ' #}",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi <b><|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nBye?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        "Mistral",
        "{%- set ns = namespace(system='', last=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{%- set ns.system = message.content %}{%- endif %}
    {%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'user' %}
        {%- if loop.last and ns.system %}
            {{- '[INST] ' + ns.system + '\\n\\n' + message.content + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message.content + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}",
        "<s>[INST] Hi <b>[/INST] Hello.</s>[INST] Be brief.\n\nBye?[/INST]",
    ),
    (
        "Gemma with the system message in the first turn",
        "{{ bos_token }}{%- if messages[0].role == 'system' -%}
    {%- set first = messages[0].content + '\\n\\n' -%}{%- set turns = messages[1:] -%}
{%- else -%}
    {%- set first = '' -%}{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
    {{- message.content | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}",
        "<s><start_of_turn>user\nBe brief.\n\nHi <b><end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n\
         <start_of_turn>user\nBye?<end_of_turn>\n<start_of_turn>model\n",
    ),
    (
        "Phi 3",
        "{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] and message['content'] %}\
         {{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi <b><|end|>\n<|assistant|>\n Hello. <|end|>\n\
         <|user|>\nBye?<|end|>\n<|assistant|>\n",
    ),
    (
        "Zephyr",
        "{% for message in messages %}
    {% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
",
        "<|system|>\nBe brief.</s>\n<|user|>\nHi <b></s>\n<|assistant|>\n Hello. </s>\n<|user|>\nBye?</s>\n<|assistant|>\n",
    ),
    (
        "Alpaca",
        "{% for message in messages %}\
         {% if message.role == 'system' %}{{ message.content + '\\n\\n' }}\
         {% elif message.role == 'user' %}{{ '### Instruction:\\n' + message.content + '\\n\\n' }}\
         {% else %}{{ '### Response:\\n' + message.content.strip() + eos_token + '\\n\\n' }}{% endif %}\
         {% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
        "Be brief.\n\n### Instruction:\nHi <b>\n\n### Response:\nHello.</s>\n\n### Instruction:\nBye?\n\n### Response:\n",
    ),
    (
        "Vicuna",
        "{{ bos_token }}{% for message in messages %}\
         {% if message.role == 'system' %}{{ message.content.rstrip() ~ ' ' }}\
         {% elif message.role == 'user' %}{{ 'USER: ' ~ message.content.strip() ~ ' ' }}\
         {% elif message.role == 'assistant' %}{{ 'ASSISTANT: ' ~ message.content.strip() ~ eos_token }}\
         {% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "<s>Be brief. USER: Hi <b> ASSISTANT: Hello.</s>USER: Bye? ASSISTANT:",
    ),
    (
        "DeepSeek",
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
         {% set ns = namespace(system='', after=false) %}\
         {%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = message['content'] %}{%- endif %}{%- endfor %}\
         {{ bos_token }}{{ ns.system }}\
         {%- for message in messages %}\
         {%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}\
         {%- if message['role'] == 'assistant' and message['content'] is not none %}\
         {% set content = message['content'].split('</think>')[-1] %}\
         {{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}\
         {%- endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
        "<s>Be brief.<｜User｜>Hi <b><｜Assistant｜> Hello. <｜end▁of▁sentence｜><｜User｜>Bye?<｜Assistant｜>",
    ),
];

#[test]
fn ten_shapes_give_the_texts_written_by_hand() {
    for (name, template, text) in SHAPES {
        assert_eq!(rendered(&conversation(template, &talk())).as_deref(), Ok(text), "{name}");
    }
}

#[test]
fn a_template_that_declines_a_conversation_says_why() {
    let gemma = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
                 {% for message in messages %}{{ message['content'] }}{% endfor %}";
    let why = rendered(&conversation(gemma, &talk())).unwrap_err();
    assert!(why.contains("System role not supported"), "{why}");
    assert_eq!(rendered(&conversation(gemma, &talk()[1..2])).as_deref(), Ok("<s>Hi <b>"));
    let alternating = SHAPES[1].1;
    let why = rendered(&conversation(alternating, &[said("user", "a"), said("user", "b")])).unwrap_err();
    assert!(why.contains("must alternate"), "{why}");
}

#[test]
fn json_is_written_as_python_writes_it_and_loops_can_be_left() {
    let template = "{% for message in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ message | tojson }}\
                    {% endfor %}{{ {'a': [1, 2.5, none, true]} | tojson }}{{ [1] | tojson(indent=2) }}\
                    {% if tools is none and documents is none %}.{% endif %}";
    let text = rendered(&conversation(template, &[said("user", "<é\"\n>"), said("user", "b")])).unwrap();
    let message = r#"{"role": "user", "content": "<é\"\n>"}"#;
    assert_eq!(text, format!("{message}{{\"a\": [1, 2.5, null, true]}}[\n  1\n]."));
}

#[test]
fn what_does_not_end_or_reaches_out_is_an_error() {
    for (template, part) in [
        ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "steps"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}", "longer than"),
        ("{{ 'x' * 100000000000 }}", "too large"),
        ("{% include 'other' %}", "other"),
        ("{{ strftime_now('%Y') }}", "strftime_now"),
        ("{{ ''.__class__.__mro__ }}", "undefined"),
        ("{{ messages | nothing }}", "nothing"),
        ("{% if %}", "syntax"),
    ] {
        let why = rendered(&conversation(template, &talk())).unwrap_err();
        assert!(why.contains(part), "{template}: {why}");
    }
}
