"""Renders templates with Jinja2, set up as transformers sets it up, and writes what comes out (or that it fails).

python make_jinja_cases.py TOKENIZERS > ../fixtures/jinja_cases.json
TOKENIZERS is a folder filled by fetch_tokenizers.sh.
"""
import json
import sys

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template: str, context: dict) -> str:
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.globals["raise_exception"] = raise_exception
    return env.from_string(template).render(**context)


TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather \"now\" <b>&'ü\u2028", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["a", "b"]}, "n": {"type": "integer",
    "minimum": -1.5, "maximum": 1e20}}, "required": ["city"]}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris", "n": 1.0}}}
CALL_TEXT = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"}}
USER = {"role": "user", "content": "Hi"}
CONVERSATIONS = {
    "one": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "two systems": [{"role": "system", "content": "A"}, {"role": "system", "content": "B"}, USER],
    "turns": [USER, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "é 漢 😀 <b> &amp; {{ x }}"}],
    "think": [USER, {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2"}, USER],
    "think last": [USER, {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2"}],
    "reasoning": [USER, {"role": "assistant", "content": "2", "reasoning_content": "easy"}, USER],
    "reasoning last": [USER, {"role": "assistant", "content": "2", "reasoning_content": "easy"}],
    "calls": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
              {"role": "tool", "content": "18C"}, {"role": "tool", "content": "19C"}],
    "calls as text": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL_TEXT]},
                      {"role": "tool", "content": "18C"}, {"role": "assistant", "content": "Warm."}, USER],
    "calls with words": [USER, {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL_TEXT, CALL_TEXT]},
                         {"role": "tool", "content": "18C"}, {"role": "tool", "content": "19C"}, USER],
    "empty": [{"role": "user", "content": ""}],
    "nothing": [],
}
SNIPPETS = [
    # values as text
    "{{ true }} {{ none }} {{ 1 }} {{ 1.0 }} {{ 1e20 }} {{ 'a' }} {{ [1, 'a', none, true] }} {{ {'a': 1, 'b': [2.5]} }}",
    "{{ undefined_name }}|{{ messages[0].nothing }}|{{ messages[0].nothing is defined }}",
    "{{ messages[9] is defined }}|{{ messages[9] }}", "{{ messages[0].nothing.more }}", "{{ undefined_name + 'a' }}",
    "{{ 'a' + 1 }}", "{{ 'a' ~ 1 ~ none ~ true }}", "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 3 }} {{ -7 // 2 }}",
    "{{ 'ab' * 3 }}", "{{ [1, 2][::-1] }} {{ 'abc'[::-1] }} {{ 'abc'[1:] }} {{ 'abc'[-1] }} {{ messages[:1] | length }}",
    "{{ 1 if false }}|{{ 'x' if messages else 'y' }}", "{{ 3 > 2 > 1 }} {{ 1 == 1.0 }} {{ 'a' in 'abc' }} {{ 'k' in {'k': 1} }}",
    # white space
    "a\n{% if true %}\n  b\n{% endif %}\n  c\n", "  {% if true %}x{% endif %}  \n\n{# note #}\ny\n\n",
    "{%- for m in messages -%}\n {{ m.role }} \n{%- endfor -%}\n", "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\nend",
    "a {{- ' b ' -}} c", "x\n\n", "{% set x %}\n captured \n{% endset %}[{{ x }}]",
    # statements
    "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}"
    "{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}",
    "{% for m in [] %}a{% else %}none{% endfor %}", "{% macro f(a, b='d') %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(2, b=3) }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }},{% endfor %}{% for k in {'z': 1, 'a': 2} %}{{ k }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "{{ raise_exception('no') }}",
    "{% if messages | length > 100 %}{{ raise_exception('no') }}{% endif %}ok", "{% generation %}a{% endgeneration %}",
    "{% set a, b = 1, 2 %}{{ a + b }}", "{% filter upper %}abc{% endfilter %}", "{% raw %}{{ x }}{% endraw %}",
    "{% call(x) f() %}{% endcall %}", "{% with a = 1 %}{{ a }}{% endwith %}",
    # filters
    "{{ tools | tojson }}", "{{ tools | tojson(indent=2) }}", "{{ tools | tojson(indent=4, ensure_ascii=True) }}",
    "{{ {'b': 1, 'a': [1.5, none, true, 1e-7, 1e16, -0.0], 'é': 'ü\\n\\t\\x01\"'} | tojson }}", "{{ [] | tojson(indent=2) }}{{ {} | tojson }}",
    "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=True) }}", "{{ undefined_name | tojson }}", "{{ 'a<b>&\\'' | tojson }}",
    "{{ ' a ' | trim }}|{{ 'aXa' | trim('a') }}|{{ 'abc' | upper }}|{{ 'ABC' | lower }}|{{ 'hello world' | title }}|{{ 'hELLO' | capitalize }}",
    "{{ [1, 2, 3] | join(', ') }}|{{ messages | map(attribute='role') | join(',') }}|{{ messages | length }}|{{ 'abc' | length }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}",
    "{{ undefined_name | default('d') }}|{{ '' | default('d', true) }}|{{ none | default('d') }}", "{{ '<a>' | e }}|{{ '<a>' | safe }}",
    "{{ 'a-b' | replace('-', '+') }}|{{ [3, 1, 2] | sort | first }}|{{ [1, 2] | last }}|{{ '5' | int + 1 }}|{{ 5 | string + 'a' }}",
    "{{ {'b': 1, 'a': 2} | dictsort }}|{{ {'b': 1} | items | list }}", "{{ [1, 1, 2] | unique | list }}|{{ [[1, 2], [3]] | sum(start=[]) }}",
    "{{ 'a\\nb' | indent(2) }}|{{ 'a\\nb' | indent(2, true) }}", "{{ 3.7 | round }} {{ 3.14159 | round(2) }} {{ 5 | float }}",
    "{{ '%s-%d' | format('a', 3) }}|{{ '%s-%d' % ('a', 3) }}", "{{ [1, 2] + [3] }}|{{ 'abc' | list }}|{{ range(3) | list }}",
    # methods of Python
    "{{ 'a</think>b'.split('</think>')[-1] }}|{{ 'a b c'.split() }}|{{ 'a,b,c'.split(',', 1) }}",
    "{{ ' a '.strip() }}|{{ '\\n\\na\\n'.lstrip('\\n') }}|{{ 'a\\n\\n'.rstrip('\\n') }}|{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'c')) }}",
    "{{ 'abc'.upper() }}|{{ 'a b'.title() }}|{{ 'abc'.replace('b', 'x') }}|{{ 'abc'.find('c') }}|{{ 'a'.isdigit() }}|{{ 'aba'.count('a') }}",
    "{{ {'a': 1}.get('a') }}|{{ {'a': 1}.get('b') }}|{{ {'a': 1}.get('b', 2) }}|{{ {'a': 1}.keys() | list }}|{{ {'a': 1}.values() | list }}",
    "{{ ', '.join(['a', 'b']) }}|{{ 'a\\nb'.splitlines() }}|{{ '{} {}'.format(1, 'b') }}", "{{ 'abc'.nothing() }}", "{{ [1].append(2) }}",
    # tests
    "{{ messages is iterable }} {{ 'a' is string }} {{ 1 is number }} {{ {} is mapping }} {{ [] is sequence }} {{ none is none }} {{ true is true }} {{ 1 is odd }} {{ 'a' is eq 'a' }} {{ 3 is divisibleby 3 }}",
    "{{ x is not defined }} {{ not x }} {{ 1 is boolean }} {{ 1.0 is float }} {{ 1 is integer }} {{ 'A' is upper }} {{ 1 in [1] }} {{ 2 not in [1] }}",
    "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}", "{{ messages[0]['content'] }}{{ messages[-1].content }}", "{{ messages[0] }}",
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + (m.content or '') + '<|im_end|>' }}{% endfor %}",
    "{{ '\\u00e9\\x41\\t|' }}", "{{ \"it's\" }}", "{{ 'a' 'b' }}", "{{ 1_000 }}", "{{ dict(a=1).a }}", "{{ lipsum is defined }}",
    "{% set m = messages[0] %}{% if m.tool_calls is defined and m.tool_calls %}x{% else %}y{% endif %}", "{{ m",
]


def main(folder: str) -> None:
    cases = []

    def add(template, context):
        try:
            outcome = {"text": render(template, context)}
        except Exception as error:  # whatever it is, the other side must fail too
            outcome = {"error": type(error).__name__}
        cases.append({"template": template, "context": context, **outcome})

    base = {"messages": CONVERSATIONS["turns"], "tools": [TOOL], "add_generation_prompt": True, "bos_token": "<s>",
            "eos_token": "</s>"}
    for snippet in SNIPPETS:
        add(snippet, base)
    for name in ["deepseek_v2", "deepseek_r1_v3", "qwen3"]:
        config = json.load(open(f"{folder}/{name}/tokenizer_config.json"))
        tokens = {key: value["content"] if isinstance(value, dict) else value for key, value in config.items()
                  if key in ("bos_token", "eos_token") and value is not None}
        for messages in CONVERSATIONS.values():
            for extra in [{"tools": None, "add_generation_prompt": True}, {"tools": [TOOL], "add_generation_prompt": False},
                          {"tools": None, "add_generation_prompt": True, "enable_thinking": False}]:
                add(config["chat_template"], {"messages": messages, **tokens, **extra})
    # Templates once, cases by number.
    templates = list(dict.fromkeys(case["template"] for case in cases))
    for case in cases:
        case["template"] = templates.index(case["template"])
    json.dump({"made_with": f"jinja2 {jinja2.__version__}", "templates": templates, "cases": cases}, sys.stdout,
              ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main(*sys.argv[1:])
