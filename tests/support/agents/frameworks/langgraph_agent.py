"""LangGraph: a graph of an agent with a tool and of a plain node. It knows nothing of al_ray."""

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

llm = ChatOpenAI(model="toy")


@tool
def add(x: int) -> int:
    """Adds one."""
    return x + 1


def checker(state: MessagesState) -> dict:
    return {"messages": [llm.invoke([*state["messages"], ("user", "check it")])]}


graph = StateGraph(MessagesState)
graph.add_node("writer", create_agent(llm, [add], name="writer"))
graph.add_node("checker", checker)
graph.add_edge(START, "writer")
graph.add_edge("writer", "checker")
graph.add_edge("checker", END)
print(graph.compile().invoke({"messages": [("user", "1+1?")]})["messages"][-1].content)
