"""Chat templates that multiply what they have are refused before it takes memory; usual ones are not."""

import tracemalloc

import pytest

from dsi_jax.checkpoints import template_bounds
from dsi_jax.checkpoints.chat import render_chat

MESSAGES = [{"role": "user", "content": "hello"}]
LOOP = "{% set ns = namespace(v=START) %}{% for i in range(TIMES) %}STEP{% endfor %}"


def looped(start: str, step: str, times: int) -> str:
    return LOOP.replace("START", start).replace("STEP", step).replace("TIMES", str(times))


# Each would make from 16 million to a thousand million characters, elements or bits if it were let go on.
GREEDY = {
    "doubled by ~": looped("'x'", "{% set ns.v = ns.v ~ ns.v %}", 25),
    "doubled by +": looped("'x'", "{% set ns.v = ns.v + ns.v %}", 25),
    "doubled list": looped("[1]", "{% set ns.v = ns.v + ns.v %}", 25),
    "doubled by a block": looped("'xx'", "{% set q %}{{ ns.v }}{{ ns.v }}{% endset %}{% set ns.v = q %}", 25),
    "doubled by a macro": "{% macro m(v) %}{{ v }}{{ v }}{% endmacro %}"
    + looped("'xx'", "{% set ns.v = m(ns.v) %}", 25),
    "lists of lists": looped("[1]", "{% set ns.v = [ns.v, ns.v] %}", 25) + "{{ ns.v }}",
    "squared": looped("99999", "{% set ns.v = ns.v * ns.v %}", 22),
    "power": "{% set n = 99999**99999 %}",
    "times": "{{ ('x' * 9000) * 9000 }}",
    "replace": "{{ ('x'*9000).replace('x', 'x'*9000) | length }}",
    "replace, a filter": "{{ ('x'*9000) | replace('x', 'x'*9000) | length }}",
    "join": "{{ ('x'*9000).join(['']*9000) | length }}",
    "join, a filter": "{{ (['']*9000) | join('x'*9000) | length }}",
    "format": "{{ '{:>90000000}'.format(1) | length }}",
    "format, many": "{{ ('{0}'*9000).format('x'*9000) | length }}",
    "format, a filter": "{{ '%90000000d' | format(1) | length }}",
    "format, mapped": "{{ ['%90000000d'] | map('format', 1) | list | length }}",
    "indent": "{{ ('x\n'*9000) | indent(9000) | length }}",
    "center": "{{ 'x' | center(90000000) | length }}",
    "sum of lists": "{{ ([[1]]*9000) | sum(start=[]) | length }}",
    "a list as text": "{{ ['x'*9000]*9000 }}",
    "a list as text, a filter": "{{ (['x'*9000]*9000) | string | length }}",
    "upper again and again": "{% set s = 'x' * 100000 %}{% for i in range(1000) %}{% set t = s | upper %}{% endfor %}",
    "slices": "{% set s = 'x' * 100000 %}{% for i in range(1000) %}{% set t = s[1:] %}{% endfor %}",
}


@pytest.mark.parametrize("name", GREEDY)
def test_what_multiplies_is_refused_and_takes_no_memory(name):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"the chat template cannot be rendered: it (makes|goes on|formats)"):
            render_chat(GREEDY[name], MESSAGES, {}, True)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_template_may_not_take_its_time(monkeypatch):
    monkeypatch.setattr(template_bounds, "MOST_SECONDS", 0.0)
    with pytest.raises(ValueError, match="goes on for too long"):
        render_chat("{% for i in range(100) %}\n{{ i }}\n{% endfor %}", MESSAGES, {}, True)


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("{{ 12345678 }} {{ 12345678 | string }} {{ {'a': 12345678} | tojson }}", '12345678 12345678 {"a": 12345678}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ 'a' ~ 1 ~ none }}{{ 'b' + 'c' }}{{ '-' * 3 }}{{ 7 % 4 }}", "a1Nonebc---3"),
        ("{{ '%s-%s' | format('a', 7) }} {{ '{} {}'.format(1, 2) }}", "a-7 1 2"),
        ("{{ ('x\n' * 50000) | indent(4) | length }}", "299996"),
        ("{{ ('x ' * 50000) | truncate(9) }}", "x x x..."),
        ("{{ ('y' * 100000).replace('y', 'zz') | length }}", "200000"),
        ("{{ messages | map(attribute='content') | join(', ') }}{{ messages[0]['content'][1:3] }}", "helloel"),
        ("{{ 'a</think>b'.split('</think>')[-1].lstrip('\n') }}", "b"),
    ],
)
def test_what_templates_usually_do(template, written):
    assert render_chat(template, MESSAGES, {}, True) == written
