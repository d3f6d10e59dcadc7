"""Chat templates: what one does is a sentence, and none takes longer than its limit."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import texts

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model.aside import Aside
from jarvis_mpi.model.tokenizer import Text

pytestmark = pytest.mark.slow

FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
DOUBLED = "{% set n = namespace(s=messages[0].content) %}{% for i in range(60) %}"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ raise_exception('only in June') }}", "does not take this: only in June: ask otherwise"),
        ("{{ oops", "does not take this: unexpected end of template"),
        ("{% include 'other' %}", "does not take this: TypeError no loader"),
        ("{{ messages.foo.bar }}", "does not take this: 'list object' has no attribute 'foo'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "does not take this: maximum recursion depth"),
        ("{{ messages[0].content + 1 }}", "does not take this: TypeError"),
        ("{{ 1 / 0 }}", "does not take this: division by zero"),
        ("{{ 'x' * 10**9 }}", "wants a text or a list of over 16777216 items"),
        ("{{ 10 ** (10 ** 9) }}", "wants a number of over 10000 digits"),
        (DOUBLED + "{% set n.s = n.s + n.s %}{% endfor %}", "makes too long a text of 3 characters"),
        (DOUBLED + "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}", "makes too long a text of 3 characters"),
        ("{% for a in range(2000) %}" + "x" * 999 + "{% endfor %}", "made 1998000 characters of 3"),
        ({"tool_use": "x", "rag": "y"}, "does not take this: This model has multiple chat templates"),
        ("{{ messages[0].content }}{{ '\ud83d' }}", "the tokenizer cannot take this text"),
    ],
)
def test_what_a_chat_template_does_is_a_sentence(template, sentence, tmp_path):
    listed = (
        [{"name": name, "template": text} for name, text in template.items()]
        if isinstance(template, dict)
        else template
    )
    text = Text(texts.of_bytes(tmp_path, listed))
    with pytest.raises(Unservable) as raised:
        text.ids_of("abc")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_template_that_loops_is_cut_off_in_any_thread_and_sooner_each_time(tmp_path):
    text = Text(
        texts.of_bytes(
            tmp_path,
            "{% if 'loop' in messages[0].content %}" + FOREVER + "{% endif %}{{ messages[0].content }}",
        )
    )
    text.rendered.limit_s = 0.4
    caught = []

    def ask():
        try:
            text.ids_of("loop")
        except Unservable as error:
            caught.append(str(error))

    for limit in (0.4, 0.2):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert f"cut off after {limit:g} s" in caught[-1]
    assert text.tokenizer.decode(text.ids_of("else")) == "else"


def test_a_machine_that_is_busy_elsewhere_cuts_no_template_off():
    """A stopped process uses no processor time."""
    aside = Aside(lambda of: of)
    assert aside.text("first", 1.0, 1 << 28) == "first"
    child = aside.child
    os.kill(child, signal.SIGSTOP)
    later = threading.Timer(0.5, os.kill, (child, signal.SIGCONT))
    later.start()
    assert aside.text("second", 0.05, 1 << 28) == "second"
    assert aside.child == child


IN_C = [  # each a single call, with no line of Python in between
    "{{ messages|length|round(999999999, 'ceil') }}",
    "{{ 'a'|center(4000000000) }}",
    "{{ '%4000000000d' % 1 }}",
    "{{ '{:4000000000}'.format(1) }}",
    "{{ 'a'.ljust(9000000000) }}{{ (1).to_bytes(9000000000, 'big') }}",
    "{{ [messages]|slice(2000000000)|list|length }}",
    "{{ (messages[-1].content * 100000).replace('h', 'x' * 1000000) }}",
    "{{ {'a': 1}|tojson(indent=4000000000) }}",
    "{% set n = namespace(l=['a'], m=['a']) %}{% for i in range(60) %}{% set n.l = [n.l, "
    "n.l] %}{% set n.m = [n.m, n.m] %}{% endfor %}{{ n.l == n.m }}",
    "{% set n = namespace(l=['a']) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
]


@pytest.mark.parametrize("fault", IN_C)
def test_a_template_that_stays_in_one_call_is_ended_and_costs_no_other_prompt(fault, tmp_path):
    template = "{% if 'hang' in messages[-1].content %}" + fault + "{% endif %}{{ messages[-1].content }}"
    text = Text(texts.of_bytes(tmp_path, template))
    text.rendered.limit_s = 1.0
    assert text.tokenizer.decode(text.ids_of("one")) == "one"
    with pytest.raises(
        Unservable, match=r"chat template (was cut off after 1 s|does not take this|wants too)"
    ):
        text.ids_of("hang here")
    text.rendered.limit_s = 4.0
    assert text.tokenizer.decode(text.ids_of("two")) == "two"


def test_a_template_that_takes_for_ever_to_be_compiled_is_cut_off(tmp_path):
    """jinja computes constants while it compiles, and ignores exceptions there."""
    text = Text(texts.of_bytes(tmp_path, "{{ [1]|slice(2000000000)|list|length }}{{ messages[-1].content }}"))
    text.rendered.limit_s = 0.5
    with pytest.raises(Unservable, match=r"was cut off after 0.5 s of work"):
        text.ids_of("one")


def test_what_renders_may_be_killed_meanwhile_or_not_be_had(tmp_path, monkeypatch):
    text = Text(texts.of_bytes(tmp_path, "[{{ messages[-1].content }}]"))
    assert text.tokenizer.decode(text.ids_of("one")) == "[one]"
    os.kill(text.rendered.aside.child, signal.SIGKILL)
    assert text.tokenizer.decode(text.ids_of("two")) == "[two]"
    text.rendered.aside.end()
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(OSError(12, "no memory")))
    assert text.tokenizer.decode(text.ids_of("three")) == "[three]"


ENDS = """
import os, signal, sys
from jarvis_mpi.model.aside import Aside
aside = Aside(lambda of: "x" if of == "well" else "y" * sum(1 for _ in iter(int, 1)))
print(aside.text("well", 1.0, 1 << 28), aside.child, flush=True)
if sys.argv[1] == "busy":
    pid = os.getpid()
    if not os.fork():
        import time
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
    aside.text("for ever", 1.0, 1 << 28)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_nothing_that_renders_outlives_the_process_it_renders_for(when):
    done = subprocess.run([sys.executable, "-c", ENDS, when], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    rendered, child = done.stdout.split()
    assert rendered == "x"
    end = time.monotonic() + 25  # 1 s of processor time, at most 22 s of the clock
    while psutil.pid_exists(int(child)) and psutil.Process(int(child)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_template_that_keeps_no_answers_is_rendered_whole(tmp_path):
    text = Text(texts.of_bytes(tmp_path, "[{{ messages[-1].content }}]"))
    ids = text.after([], "one")
    text.add_turn("one", "1")
    assert text.tokenizer.decode(text.after([*ids, 5, 6], "two")) == "[two]"
