"""Agents, nesting and noise: what encloses a call says whose it is, however the spans arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_ray.recipe import TransitionsSection
from al_ray.rollouts.trajectory import trajectory
from al_ray.traces import semconv
from al_ray.traces.nesting import Earner, Nesting
from al_ray.types import JSON, Rollout, RolloutRequest, RolloutStatus, Span, SpanKind, Task, Trajectory

REQUEST = RolloutRequest("r", "b", "g", Task("t", {}))


def _span(id: str, sequence: int, kind: SpanKind = SpanKind.EVENT, **attributes: JSON) -> Span:
    """Of attributes, the names are those of the constants in ``semconv``."""
    named = {getattr(semconv, name): value for name, value in attributes.items()}
    return Span(id, "r", 1, kind, id, 0.0, 1.0, named, sequence)


def _call(id: str, sequence: int, tool_calls: Sequence[str] = (), **attributes: JSON) -> Span:
    asked = [{"id": name, "function": {"name": "look", "arguments": "{}"}} for name in tool_calls]
    told: Mapping[str, JSON] = {
        "PROMPT_IDS": [1, sequence],
        "FINISH_REASONS": ["stop"],
        "CHOICES": [{"ids": [7], "logprobs": [-0.5], "versions": [[3, 0, 1]]}],
        "OUTPUT_MESSAGES": [{"role": "assistant", "tool_calls": asked}],
    }
    return _span(id, sequence, SpanKind.CALL, **{**told, **attributes})


def _agent(id: str, sequence: int, name: str, parent: str | None = None, trace: str = "t") -> Span:
    return _span(id, sequence, OPERATION="invoke_agent", AGENT_NAME=name, PARENT_ID=parent, TRACE_ID=trace)


def _trajectory(spans: Sequence[Span], *train: str) -> Trajectory:
    chosen = TransitionsSection(train=list(train)) if train else TransitionsSection()
    return trajectory(Rollout(REQUEST, RolloutStatus.SUCCEEDED, spans=spans), chosen)


def _agents(*spans: Span) -> list[str]:
    return [transition.agent for transition in _trajectory(spans).transitions]


# --- whatever happens to the spans on their way --------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A call of an agent, the tool that it asks for, and a reward for it."""

    agent: int
    tool_fails: bool
    reward: float
    rewarded_in_tool: bool


steps = st.lists(
    st.builds(Step, st.integers(0, 1), st.booleans(), st.floats(-1e3, 1e3), st.booleans()), max_size=6
)


def _recorded(taken: Sequence[Step]) -> list[Span]:
    """As they come in when all is well: each span at once, and what encloses a span before it."""
    spans = [_agent(f"agent {i}", i, f"name {i}", trace=f"trace {i}") for i in range(2)]
    for number, step in enumerate(taken):
        at, trace = 10 * (number + 1), f"trace {step.agent}"
        inside: Mapping[str, JSON] = {"PARENT_ID": f"agent {step.agent}", "TRACE_ID": trace}
        request: Mapping[str, JSON] = {"PARENT_ID": f"request {number}", "TRACE_ID": trace}
        tool: Mapping[str, JSON] = {"TOOL_CALL_ID": f"asked {number}", **inside}
        failure = {"ERROR_TYPE": "ValueError"} if step.tool_fails else {}
        rewarded = (
            {"PARENT_ID": f"tool {number}"} if step.rewarded_in_tool else {"REWARD_CALL": f"call {number}"}
        )
        spans += [
            _span(f"request {number}", at, **inside),
            _call(f"call {number}", at + 1, [f"asked {number}"], **request),
            _span(f"tool {number}", at + 2, OPERATION="execute_tool", **failure, **tool),
            _span(f"reward {number}", at + 3, SpanKind.REWARD, REWARD=step.reward, **rewarded),
        ]
    return spans


def _is_agents_own(span: Span) -> bool:
    return span.kind is not SpanKind.CALL


@given(steps)
def test_each_call_has_its_agent_its_reward_and_its_tools_error(taken: list[Step]) -> None:
    transitions = _trajectory(_recorded(taken)).transitions
    told = [(t.agent, t.reward, t.signals.tool_errors, t.signals.tool_ok) for t in transitions]
    assert told == [
        (f"name {step.agent}", step.reward, int(step.tool_fails), int(not step.tool_fails)) for step in taken
    ]


@given(steps, st.randoms(use_true_random=False))
def test_shuffled_doubled_and_skewed_spans_give_the_same_trajectory(
    taken: list[Step], random: Random
) -> None:
    """Doubles arrive later than the first; clocks say anything."""
    spans = _recorded(taken)
    doubles = [replace(span, sequence=span.sequence + 1000) for span in random.choices(spans, k=4)]
    skewed = [
        replace(span, start=random.uniform(-9, 9), end=random.uniform(-9, 9)) for span in spans + doubles
    ]
    random.shuffle(skewed)
    assert _trajectory(skewed) == _trajectory(spans)


@given(steps, st.randoms(use_true_random=False))
def test_what_the_agent_sends_may_come_late_and_in_any_order(taken: list[Step], random: Random) -> None:
    """As exporters send in batches; only calls keep their place, being stored before they are answered."""
    spans = _recorded(taken)
    places = iter(random.sample(range(1000, 2000), len(spans)))
    late = [replace(s, sequence=next(places)) if _is_agents_own(s) else s for s in spans]
    assert _trajectory(late) == _trajectory(spans)


@given(steps, st.randoms(use_true_random=False))
def test_a_request_around_a_call_may_be_missing_and_noise_changes_nothing(
    taken: list[Step], random: Random
) -> None:
    """A chain of parents that is broken ends in its trace, and that has one agent."""
    spans = _recorded(taken)
    kept = [span for span in spans if not span.id.startswith("request") or random.random() < 0.5]
    noise = [_span(f"GET /health {i}", 2000 + i, PARENT_ID=random.choice(spans).id) for i in range(3)]
    assert _trajectory([*kept, *noise]) == _trajectory(spans)


@given(steps)
def test_without_any_of_the_agents_operations_tokens_and_named_rewards_stay(taken: list[Step]) -> None:
    spans = _recorded([replace(step, rewarded_in_tool=False) for step in taken])
    told = [replace(t, agent="") for t in _trajectory(spans).transitions]
    assert list(_trajectory([s for s in spans if not s.id.startswith("agent")]).transitions) == told


# --- agents ------------------------------------------------------------------------------------------


def test_an_agents_name_is_the_calls_own_else_the_nearest_operations() -> None:
    outer, inner = _agent("outer", 0, "planner"), _agent("inner", 1, "coder", "outer")
    within = [_call("a", 2, PARENT_ID="inner"), _call("b", 3, PARENT_ID="outer"), _call("c", 4)]
    named = _call("d", 5, AGENT_NAME="critic", PARENT_ID="inner")
    assert _agents(outer, inner, *within, named) == ["coder", "planner", "", "critic"]


def test_in_a_broken_trace_of_several_agents_nobodys_name_is_guessed() -> None:
    lost = _call("a", 2, PARENT_ID="never came", TRACE_ID="t")
    assert _agents(_agent("x", 0, "planner"), lost) == ["planner"]
    assert _agents(_agent("x", 0, "planner"), _agent("y", 1, "coder"), lost) == [""]


def test_parents_in_a_circle_end_nowhere() -> None:
    circle = [_span("x", 0, PARENT_ID="y"), _span("y", 1, PARENT_ID="x"), _call("a", 2, PARENT_ID="x")]
    assert _agents(*circle) == [""]


def test_agents_are_trained_by_pattern_and_the_others_are_context() -> None:
    spans = [_call(name, i, AGENT_NAME=name) for i, name in enumerate(("writer", "checker", "rewriter"))]
    spans.append(_span("r", 9, SpanKind.REWARD, REWARD=1.0, REWARD_CALL="checker"))
    told = [(t.agent, t.trained, t.reward) for t in _trajectory(spans, "*writer").transitions]
    assert told == [("writer", True, 0.0), ("checker", False, 1.0), ("rewriter", True, 0.0)]


def test_a_call_that_the_agents_telemetry_saw_too_is_one_call() -> None:
    """The gateway's record has the tokens, the agent's has the place in the trace."""
    seen = _span("seen", 3, OPERATION="chat", RESPONSE_ID="call", PARENT_ID="x")
    reward = _span("r", 4, SpanKind.REWARD, REWARD=1.0, REWARD_CALL="seen")
    recorded = _call("call", 1)
    for call in (recorded, _call("call", 1, PARENT_ID="seen")):
        episode = _trajectory([_agent("x", 0, "planner"), call, seen, reward])
        assert [(t.id, t.agent, t.reward) for t in episode.transitions] == [("call/0", "planner", 1.0)]
        assert not episode.left_out
    named = replace(seen, attributes={**seen.attributes, semconv.AGENT_NAME: "critic"})
    assert _agents(_agent("x", 0, "planner"), recorded, named) == ["critic"]


# --- rewards -----------------------------------------------------------------------------------------


def test_of_parallel_agents_the_one_in_whose_operation_the_reward_is_gets_it() -> None:
    spans = [_agent("x", 0, "left"), _agent("y", 1, "right")]
    spans += [_call("a", 2, PARENT_ID="x"), _call("b", 3, PARENT_ID="y")]
    spans.append(_span("r", 4, SpanKind.REWARD, REWARD=1.0, PARENT_ID="x"))
    assert [t.reward for t in _trajectory(spans).transitions] == [1.0, 0.0]


def test_a_reward_in_an_agent_called_as_a_tool_is_its_own_and_before_it_its_callers() -> None:
    tool = _span("tool", 1, OPERATION="execute_tool", TOOL_CALL_ID="delegate", PARENT_ID="x")
    spans = [_call("a", 0, ["delegate"]), tool, _agent("sub", 2, "sub", "tool")]
    early = _span("early", 3, SpanKind.REWARD, REWARD=1.0, PARENT_ID="tool")
    own = _span("own", 5, SpanKind.REWARD, REWARD=2.0, PARENT_ID="sub")
    spans += [early, _call("b", 4, PARENT_ID="sub"), own]
    assert [t.reward for t in _trajectory(spans).transitions] == [1.0, 2.0]


@pytest.mark.parametrize("named", ["as ours", "by its response", "on the telemetry's span"])
def test_a_reward_that_names_an_earlier_answer_is_that_calls(named: str) -> None:
    """In our own words; in OpenTelemetry's, where it saw nothing of the call, which stays where it is; and as
    Agent Lightning writes it on the span of the call itself, which tells whose the call is."""
    spans = [_agent("x", 0, "planner"), _agent("y", 1, "critic"), _call("a", 2), _call("b", 3)]
    told: Mapping[str, JSON] = {
        "as ours": {"REWARD_CALL": "a"},
        "by its response": {"RESPONSE_ID": "a", "PARENT_ID": "y"},
        "on the telemetry's span": {"RESPONSE_ID": "a", "OPERATION": "chat", "PARENT_ID": "x"},
    }[named]
    reward = _span("reward", 4, SpanKind.REWARD, REWARD=1.0, **told)
    episode = _trajectory([*spans, reward])
    assert [(t.id, t.reward) for t in episode.transitions] == [("a/0", 1.0), ("b/0", 0.0)]
    assert (episode.reward, episode.terminal_reward) == (1.0, 0.0)
    assert episode.transitions[0].agent == ("planner" if "telemetry" in named else "")


def test_a_reward_on_a_span_around_the_call_that_it_saw_is_that_calls() -> None:
    """Where it tells of no response: the call's ``traceparent`` lies within it."""
    seen = _span("seen", 4, SpanKind.REWARD, REWARD=1.0, OPERATION="chat")
    spans = [_call("a", 1, PARENT_ID="seen"), _call("b", 2), seen]
    assert [t.reward for t in _trajectory(spans).transitions] == [1.0, 0.0]


def test_calls_and_operations_enclose_and_noise_does_not() -> None:
    post, reward = _span("post", 2, PARENT_ID="call"), _span("reward", 3, SpanKind.REWARD, PARENT_ID="post")
    nesting = Nesting([_agent("x", 0, "planner"), _call("call", 1, PARENT_ID="x"), post, reward])
    assert [outer.id for outer in nesting.enclosing(reward)] == ["call", "x"]
    assert [outer.id for outer in nesting.around(reward)] == ["post", "call", "x"]


def test_a_call_that_reads_a_tools_result_and_asks_under_the_same_id_again_is_not_its_own_asker() -> None:
    """As frameworks do that count a tool's calls anew in each answer."""
    first, second, third = (_call(f"call {n}", n, ["call_0"]) for n in range(3))
    nesting = Nesting([first, second, third])
    askers = [nesting.asker("call_0", call) for call in (first, second, third)]
    assert askers == [None, Earner(first, 0), Earner(second, 0)]


def test_a_reward_may_name_any_choice_of_a_call_and_its_telemetry_may_stand_for_the_call() -> None:
    """What is no index of a choice leaves the call."""
    call, seen = _call("call", 0), _span("seen", 1, OPERATION="chat", RESPONSE_ID="call")
    for name, choice in (("call", None), ("call/0", 0), ("seen/12", 12), ("call/9999", 9999)):
        reward = _span("r", 2, SpanKind.REWARD, REWARD=1.0, REWARD_CALL=name)
        assert Nesting([call, seen, reward]).linked(reward) == Earner(call, choice)
    for name in ("call/99999", "call/-1", "call/first"):
        reward = _span("r", 2, SpanKind.REWARD, REWARD=1.0, REWARD_CALL=name)
        assert Nesting([call, seen, reward]).linked(reward) == Earner(call)


# --- depth -------------------------------------------------------------------------------------------


def test_a_chain_of_parents_is_walked_once_however_many_ask_along_it() -> None:
    """An exception recorded by each of many operations, and by each of many requests, on its way out: done at
    once; walked anew for each of them, it would take minutes."""
    for told in ({"OPERATION": "operation"}, {}):
        chain = [
            _span(f"s{i}", i + 1, PARENT_ID=f"s{i - 1}", EXCEPTION_TYPE=f"E{i}", **told)
            for i in range(20_000)
        ]
        [only] = _trajectory([_call("a", 0), *chain]).transitions
        assert only.signals.exceptions == len(chain)


@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["call", "operation", "execute_tool", "request"])),
        max_size=8,
    )
)
def test_what_encloses_is_what_is_around_without_noise(told: Sequence[tuple[int, str]]) -> None:
    """In circles too, and where a parent never came."""
    spans = [
        _call(f"s{i}", i, PARENT_ID=f"s{parent}")
        if what == "call"
        else _span(f"s{i}", i, OPERATION=what, PARENT_ID=f"s{parent}")
        for i, (parent, what) in enumerate(told)
    ]
    nesting = Nesting(spans)

    def is_noise(span: Span) -> bool:
        return span.attributes.get(semconv.OPERATION) == "request"

    for span in spans:
        around = [
            outer for outer in nesting.around(span) if outer.attributes.get(semconv.OPERATION) != "request"
        ]
        assert [*nesting.enclosing(span)] == around == [*nesting.enclosing(span)]
