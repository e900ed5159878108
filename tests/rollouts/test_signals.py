"""Signals are found in traces and in messages alone, and each event counts once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.rollouts.signals import signals
from al_ray.rollouts.tool_results import ToolStatus, of_error, of_text
from al_ray.traces import semconv
from al_ray.traces.nesting import Nesting
from al_ray.types import JSON, Signals, Span, SpanKind

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "find")]


def _span(id: str, sequence: int, kind: SpanKind = SpanKind.EVENT, **attributes: JSON) -> Span:
    """Of attributes, the names are those of the constants in ``semconv``."""
    named = {getattr(semconv, name): value for name, value in attributes.items()}
    return Span(id, "r", 1, kind, id, 0.0, 1.0, named, sequence)


def _asking(*calls: tuple[str, str, str], content: str = "") -> dict[str, JSON]:
    """An answer that asks for tools, each by id, name and arguments."""
    asked = [{"id": id, "function": {"name": name, "arguments": text}} for id, name, text in calls]
    return {"role": "assistant", "content": content, "tool_calls": asked}


def _told(id: str, content: JSON, **more: JSON) -> dict[str, JSON]:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


def _call(
    id: str, sequence: int, sent: Sequence[JSON], *answers: JSON, reason: str = "stop", **attributes: JSON
) -> Span:
    messages: Mapping[str, JSON] = {"INPUT_MESSAGES": list(sent), "OUTPUT_MESSAGES": list(answers)}
    reasons = [reason] * len(answers)
    told = {"TOOL_DEFINITIONS": TOOLS, "FINISH_REASONS": reasons, **messages, **attributes}
    return _span(id, sequence, SpanKind.CALL, **told)


def _tool(id: str, sequence: int, tool_call: str, **attributes: JSON) -> Span:
    return _span(id, sequence, OPERATION="execute_tool", TOOL_CALL_ID=tool_call, **attributes)


def _signals(*spans: Span) -> dict[tuple[str, int], Signals]:
    return dict(signals(Nesting(spans)))


ASKS = _asking(("1", "add", '{"a": 1}'))


@pytest.mark.parametrize(
    ("content", "told"),
    [("5", Signals(tool_ok=1)), ("error: division by zero", Signals(tool_errors=1)),
     ("Error: the request timed out", Signals(timeouts=1))],
)  # fmt: skip
def test_messages_alone_tell_what_became_of_a_tool_call_and_once(content: str, told: Signals) -> None:
    """Though every later call shows the same message again."""
    history = [ASKS, _told("1", content)]
    answer = {"role": "assistant", "content": "so"}
    calls = [
        _call("a", 0, [], ASKS),
        _call("b", 1, history, answer),
        _call("c", 2, [*history, answer], answer),
    ]
    assert _signals(*calls)["a", 0] == told
    assert _signals(*calls)["b", 0] == _signals(*calls)["c", 0] == Signals()


@pytest.mark.parametrize(
    ("attributes", "told"),
    [({}, Signals(tool_ok=1)), ({"ERROR_TYPE": "KeyError"}, Signals(tool_errors=1)),
     ({"ERROR_TYPE": "asyncio.TimeoutError"}, Signals(timeouts=1)),
     ({"TOOL_CALL_RESULT": {"exit_code": 1}}, Signals(tool_errors=1)),
     ({"TOOL_CALL_RESULT": "Traceback (most recent call last):\nKeyError: y"}, Signals(tool_errors=1))],
)  # fmt: skip
def test_the_span_of_a_tool_tells_it_too(attributes: dict[str, JSON], told: Signals) -> None:
    assert _signals(_call("a", 0, [], ASKS), _tool("t", 1, "1", **attributes))["a", 0] == told


def test_where_span_and_message_both_tell_the_worse_counts_and_once() -> None:
    later = _call("b", 2, [ASKS, _told("1", "could not do that")], {"role": "assistant"})
    spans = [_call("a", 0, [], ASKS), _tool("t", 1, "1", ERROR_TYPE="ValueError"), later]
    assert _signals(*spans)["a", 0] == Signals(tool_errors=1)


@pytest.mark.parametrize(
    ("arguments", "arrives"),
    [('{"a":1}', 1), ({"a": 1}, 1), ('{"a":1}', 3), ('{"context": "<Context>", "a": 1}', 1)],
)
def test_a_span_without_the_tool_calls_id_tells_of_the_one_that_asked_for_this(
    arguments: JSON, arrives: int
) -> None:
    """By tool and arguments, though it comes after the next call; before that, also by the tool alone, where
    the function is given more than the model asked for."""
    told = {"TOOL_NAME": "add", "TOOL_CALL_ARGUMENTS": arguments, "TOOL_CALL_RESULT": "error: no"}
    later = _call("b", 2, [ASKS, _told("1", "error: no")], _asking(("2", "add", '{"a": 2}')))
    spans = [_call("a", 0, [], ASKS), later, _span("t", arrives, OPERATION="execute_tool", **told)]
    assert _signals(*spans)["a", 0] == Signals(tool_errors=1)
    assert _signals(*spans)["b", 0] == Signals()


def test_each_span_without_an_id_tells_of_another_tool_call_and_of_none_where_all_are_told_of() -> None:
    """What an agent executes once more than it was asked to counts as well."""
    asks = _asking(*((id, "add", '{"a": 1}') for id in "12"), ("3", "find", "{}"))
    done = {"OPERATION": "execute_tool", "TOOL_NAME": "add", "TOOL_CALL_ARGUMENTS": {"a": 1}}
    answered = [asks, *(_told(id, "5") for id in "123")]
    spans = [_call("a", 0, [], asks), *(_span(f"t{n}", n, **done) for n in (1, 2))]
    raised = _span("e", 3, PARENT_ID="t2", EXCEPTION_TYPE="ValueError")
    found = _signals(*spans, raised, _call("b", 4, answered, {"role": "assistant"}))
    assert found["a", 0] == Signals(tool_ok=2, tool_errors=1, repeated_calls=1)
    again = _signals(*spans, raised, _span("t3", 4, **done), _call("b", 5, answered, {"role": "assistant"}))
    assert again["a", 0] == Signals(tool_ok=3, tool_errors=1, repeated_calls=1)


def test_an_answer_that_the_agent_itself_calls_an_error_is_one() -> None:
    """Whatever it says: Anthropic's ``is_error``."""
    later = _call("b", 1, [ASKS, _told("1", "the moon is full", status="error")], {"role": "assistant"})
    assert _signals(_call("a", 0, [], ASKS), later)["a", 0] == Signals(tool_errors=1)


@pytest.mark.parametrize(
    "answer",
    [
        '{"success": false, "message": "timed out after 3 s"}',
        "Error: the request timed out\nTry again later.",
        'Traceback (most recent call last):\n  File "a.py", line 1, in look\nTimeoutError: 3 s are over',
    ],
)
def test_an_answer_that_says_that_it_failed_because_time_ran_out_is_a_time_out(answer: str) -> None:
    """In its first line or, as a traceback does, in its last."""
    assert of_text(answer) is ToolStatus.TIMEOUT


def test_the_choice_that_asked_gets_the_signal_of_its_tool() -> None:
    answers = (_asking(("1", "add", "{}")), _asking(("2", "add", "{}")))
    found = _signals(_call("a", 0, [], *answers), _tool("t", 1, "2", ERROR_TYPE="ValueError"))
    assert (found["a", 0], found["a", 1]) == (Signals(), Signals(tool_errors=1))


def test_a_tool_that_no_message_asked_for_is_that_of_the_call_before_it() -> None:
    """An agent may read its tools' names out of plain text."""
    calls = [_call(name, 2 * i, [], {"role": "assistant"}) for i, name in enumerate("ab")]
    found = _signals(*calls, _span("t", 1, OPERATION="execute_tool", ERROR_TYPE="ValueError"))
    assert found["a", 0] == Signals(tool_errors=1) and found["b", 0] == Signals()


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (_asking(("1", "add", '{"a": 1}'), ("2", "find", "{}")), 0),
        (_asking(("1", "add", '{"a": 1')), 1),
        (_asking(("1", "add", "[1]")), 1),
        (_asking(("1", "subtract", "{}"), ("2", "add", "")), 2),
        (_asking(content='<tool_call>\n{"name": "add", "arguments": {\n</tool_call>'), 1),
        (_asking(content="No tool is needed."), 0),
    ],
)
def test_malformed_calls_are_those_that_do_not_parse_or_name_no_tool(answer: JSON, count: int) -> None:
    assert _signals(_call("a", 0, [], answer))["a", 0].malformed_calls == count


def test_what_was_cut_short_is_truncated_and_not_malformed() -> None:
    answer = _asking(content='<tool_call>\n{"name": "add"')
    assert _signals(_call("a", 0, [], answer, reason="length"))["a", 0] == Signals(truncated=1)


def test_a_call_repeats_what_its_own_conversation_asked_before_however_it_is_written() -> None:
    before = _asking(("1", "add", '{"a": 1, "b": 2}'))
    again = _asking(
        ("2", "add", '{"b":2,"a":1}'), ("3", "find", '{"a": 1, "b": 2}'), ("4", "add", '{"b": 2, "a": 1}')
    )
    found = _signals(_call("a", 0, [], before), _call("b", 1, [before], again), _call("c", 2, [], before))
    assert [found[name, 0].repeated_calls for name in "abc"] == [0, 2, 0]


def test_exceptions_outside_of_tools_count_with_the_call_before_and_once_on_their_way_out() -> None:
    raised = {"EXCEPTION_TYPE": "ValueError", "EXCEPTION_MESSAGE": "no"}
    agents = [_span(name, i, OPERATION="invoke_agent") for i, name in enumerate("xy")]
    call = _call("a", 2, [], {"role": "assistant"}, PARENT_ID="y")
    way_out = [_span(f"e{i}", 3 + i, PARENT_ID=name, **raised) for i, name in enumerate("yx")]
    late = _span("e3", 6, EXCEPTION_TYPE="TimeoutError")
    assert _signals(*agents, call, *way_out, late)["a", 0] == Signals(exceptions=1, timeouts=1)


def test_an_exception_inside_a_tool_is_the_tools_error() -> None:
    raised = {"EXCEPTION_TYPE": "ValueError", "EXCEPTION_MESSAGE": "no"}
    spans = [_call("a", 0, [], ASKS), _tool("t", 1, "1"), _span("e", 2, PARENT_ID="t", **raised)]
    assert _signals(*spans, _span("outside", 3, **raised))["a", 0] == Signals(tool_errors=1)


@pytest.mark.parametrize(
    "answer",
    [
        "error: no tool 'x'",
        "Error executing tool calculator: x",
        "Error: ValueError('x')\n Please fix your mistakes.",
        "An error occurred while running the tool. Please try again. Error: x",
        "sqlite3.OperationalError: no such table: x",
        "Tool execution failed",
        '{"error": "x"}',
        '{"isError": true, "content": []}',
        '{"returncode": 2, "stdout": ""}',
        '{"exit_code": "1"}',
        '{"exit_code": "killed"}',
        '{"isError": "true"}',
        '{"error": "none", "exit_code": -9}',
        "Unknown tool: serach",
        "Unknown tool 'serach'",
        "Invalid arguments for tool: a is missing",
        "Missing required parameter: query",
        "Unsupported method",
        "Tool serach not found",
        "function `serach` does not exist",
        "Tool not found: serach",
        "Input validation error: 'query' is a required property",
        "Validation error: a: field required",
        "1 validation error for Query\na\n  Field required",
        "MCP error -32602: Tool serach not found",
        "Internal server error",
        "<tool_use_error>File does not exist.</tool_use_error>",
        "<error>no such table</error>",
        "Failed to open /a: no such file",
        "bash: line 1: serach: command not found",
        "cat: /a: No such file or directory",
        "Permission denied",
        "404 Not Found",
        "HTTP 503 Service Unavailable",
        "Exit code: 2\nno such table",
        "Command exited with status 1",
        '{"success": false, "message": "no such table"}',
        '{"ok": false}',
        '{"status": "error", "message": "no such table"}',
        '{"errors": [{"message": "no such field"}]}',
    ],
)
def test_errors_of_tools_and_frameworks_are_known_by_their_beginning(answer: str) -> None:
    assert of_text(answer) is ToolStatus.ERROR


@pytest.mark.parametrize(
    "answer", ["(no rows)", " []\n", "No results found.", "no documents were found", "0 rows returned"]
)
def test_an_answer_that_says_no_more_than_that_there_is_nothing_is_an_empty_result(answer: str) -> None:
    """In a message, and in the span of a tool that no message asked for."""
    assert of_text(answer) is ToolStatus.EMPTY
    later = _call("b", 1, [ASKS, _told("1", answer)], {"role": "assistant"})
    assert _signals(_call("a", 0, [], ASKS), later)["a", 0] == Signals(empty_results=1)
    execution = _span("t", 1, OPERATION="execute_tool", TOOL_CALL_RESULT=answer)
    assert _signals(_call("a", 0, [], {"role": "assistant"}), execution)["a", 0] == Signals(empty_results=1)


def test_a_tool_that_returned_an_empty_list_gave_an_empty_result() -> None:
    spans = [_call("a", 0, [], ASKS), _tool("t", 1, "1", TOOL_CALL_RESULT=[])]
    assert _signals(*spans)["a", 0] == Signals(empty_results=1)


@pytest.mark.parametrize(
    "answer",
    ["", "42", "no rows of seats", "no", "{}", "[[]]",
     "The error of the estimate is 3.", "errors: 0", '{"error": null, "value": 1}',
     '{"exit_code": 0}', "{not json", "In 1998 the referee timed out.", "Exceptional results",
     "Unknown tools were found in the cave.", "An unknown tool, perhaps a scraper, lay beside it.",
     "Invalid input is the commonest cause of crashes.", "Input validation errors are common in web forms.",
     "Errors and their causes", "Error handling is taught in chapter 3.", "Server errors rose by 4 %.",
     "Failed to win the title, he retired.", "Failed states: a history", "Missing persons: 12",
     "Tool use in crows was not found before 1996.", "Permission denied by the council, they left.",
     "404 people were not found.", "Exit codes are listed below.", "Function of the heart",
     '{"success": true}', '{"ok": true}', '{"status": "ok"}', '{"status": "failed", "job": 7}',
     '{"success": 0.4}', '{"errors": []}', '{"errors": 0}', '{"exit_code": "0", "stdout": "hi"}',
     '{"returncode": " 0.0 "}', '{"isError": "false", "content": "x"}', '{"error": "None", "value": 3}',
     '{"error": "null"}', '{"error": " "}', '{"errors": "0"}', '{"exit_code": "none"}'],
)  # fmt: skip
def test_ordinary_answers_are_no_errors(answer: str) -> None:
    assert of_text(answer) is ToolStatus.OK


@pytest.mark.parametrize(
    "kind", ["TimeoutError", "ReadTimeout", "DEADLINE_EXCEEDED", "timed out", "TIMED_OUT"]
)
def test_time_outs_are_known_by_their_name(kind: str) -> None:
    assert of_error(kind) is ToolStatus.TIMEOUT


words = [
    "role",
    "content",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "tool_call_id",
    "tool",
    "text",
]
anything = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(words), inner, max_size=5),
    max_leaves=8,
)
told = sorted({value for name, value in vars(semconv).items() if name.isupper()} - {semconv.CHOICES})
attributes = st.dictionaries(st.sampled_from(told), anything, max_size=4)


@given(st.lists(st.tuples(st.sampled_from(SpanKind), attributes), min_size=1, max_size=4), anything)
def test_attributes_of_whatever_shape_are_read(recorded: list[tuple[SpanKind, JSON]], sent: JSON) -> None:
    """An agent's own telemetry may put anything there."""
    spans = [Span(f"s{i}", "r", 1, kind, "n", 0, 0, told, i) for i, (kind, told) in enumerate(recorded)]
    asked = _call("a", 8, [_told("1", sent)], {"tool_calls": sent}, {"tool_calls": [{"function": sent}]})
    _signals(*spans, asked, _tool("t", 9, "1", TOOL_CALL_RESULT=sent, ERROR_TYPE=sent))
